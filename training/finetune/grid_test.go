package finetune_test

import (
	"context"
	"image"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/weights"
	. "github.com/onestep-go/onestep/training/finetune"
)

// An adapter is distilled on the grid of its skipping step: its file has the grid's size, its validation images are from it, and a style that
// is trained beside it keeps its predictions at the timesteps that the sampler visits there.
func TestGrid(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("a cat\n"), 0o600))
	var seen []int
	run := tinyRun(t, model, data)
	run.Steps, run.SaveEvery, run.ValPrompts = 1, 1, prompts
	run.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
		seen = append(seen, v.OriginalSteps)
		return []image.Image{image.NewNRGBA(image.Rect(0, 0, 8, 8))}, nil
	}
	lcm, err := LCM{LoRA: true, Skip: 100, Run: run, Adapter: Adapter{Rank: 4}}.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{10}, seen)

	files, err := weights.Open(model, weights.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, files.Close()) }()
	f, err := lora.Open(lcm.Snapshot)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	require.Equal(t, 10, f.OriginalSteps())
	bare := filepath.Join(t.TempDir(), "bare.safetensors") // the same weights
	require.NoError(t, f.Write(bare, files, lora.WriteOptions{Metadata: map[string]string{"onestep_original_inference_steps": ""}}))

	losses := map[float64]bool{}
	for grid, few := range map[int]string{10: lcm.Snapshot, 0: bare} {
		run := run
		run.Out, seen = filepath.Join(t.TempDir(), "style"), nil
		r, err := LoRA{Run: run, Adapter: Adapter{Rank: 4}, FewStep: few}.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{grid}, seen)
		losses[r.Loss] = true
	}
	require.Len(t, losses, 2, "at other timesteps")
}
