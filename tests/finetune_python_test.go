package tests

import (
	"encoding/json"
	"image"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/finetune"
)

// An LCM-LoRA that is trained here loads in diffusers with no key left over, and gives the same image, to one level of rounding.
func TestDiffusersReadsTrainedAdapters(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "peft", "PIL")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tinysd.Write(at("sd15"), "sd15"))
	require.NoError(t, vision.Write(at("a.png"), image.NewNRGBA(image.Rect(0, 0, 64, 64)), vision.WriteOptions{}))
	m, err := sd.Open(at("sd15"), sd.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	for _, layout := range []string{"kohya", "peft", "diffusers"} {
		r, err := finetune.LCM{LoRA: true, Adapter: finetune.Adapter{Rank: 4, Layout: layout}, Run: finetune.Run{
			Model: at("sd15"), Data: dir, Steps: 5, Batch: 1, LR: 0.01, Cache: "none", Uncaptioned: true, Out: t.TempDir(), Adapters: lora.Adapters{},
		}}.Train(t.Context())
		require.NoError(t, err)
		a, err := lora.Load(m, r.Snapshot, lora.Options{})
		require.NoError(t, err)
		lcm, err := scheduler.Named("lcm")
		require.NoError(t, err)
		for img, err := range (texttoimage.Pipeline{Model: m, Method: lcm, Steps: 4, Guidance: 1, Seed: 1, Adapters: a.At(1)}).Images(t.Context(), "a cat") {
			require.NoError(t, err)
			require.NoError(t, vision.Write(at("ours.png"), img, vision.WriteOptions{Overwrite: true}))
		}
		require.NoError(t, a.Close())
		out, err := exec.Command(python, "testdata/finetune_reads.py", at("sd15"), r.Snapshot, at("ours.png")).Output()
		require.NoError(t, err)
		var got struct{ Modules, Tensors, Levels int }
		require.NoError(t, json.Unmarshal(out, &got), string(out))
		require.Equal(t, 78, got.Modules)
		require.Equal(t, map[string]int{"kohya": 3 * 78}[layout]+map[bool]int{true: 2 * 78}[layout != "kohya"], got.Tensors)
		require.LessOrEqual(t, got.Levels, 1, layout)
	}
}
