package finetune_test

import (
	"context"
	"encoding/json"
	"errors"
	"image"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training"
	. "github.com/onestep-go/onestep/training/finetune"
)

// losses reads the validation losses of a run by their steps.
func losses(t testing.TB, run string) map[int][]float64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(run, "stats.jsonl"))
	require.NoError(t, err)
	all := map[int][]float64{}
	for line := range strings.Lines(string(text)) {
		var at struct {
			Step int      `json:"step"`
			Loss *float64 `json:"val_loss"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &at))
		if at.Loss != nil {
			all[at.Step] = append(all[at.Step], *at.Loss)
		}
	}
	return all
}

// A run that is killed after a checkpoint and before its validation validates the snapshot when it resumes, so that it has the losses and the
// best snapshot of one that was not; one that was killed later does not validate twice.
func TestKilledBeforeValidation(t *testing.T) {
	oneThread(t)
	model, data := base(t, "sd15"), photos(t, 3)
	options := func() LoRA {
		r := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		r.LR = 0.3 // so that the first snapshot is the best
		return r
	}
	whole := options()
	want, err := whole.Train(t.Context())
	require.NoError(t, err)
	for _, killed := range []int{3, 6} {
		cut := options()
		boom, other := errors.New("killed"), filepath.Join(t.TempDir(), "other")
		require.NoError(t, os.WriteFile(other, nil, 0o600))
		cut.Scalars = func(k int, values map[string]float64) error {
			if _, ok := values["val_loss"]; ok && k == killed {
				return &SnapshotError{Path: other, Err: boom} // ends the run
			}
			return nil
		}
		_, err = cut.Train(t.Context())
		require.ErrorIs(t, err, boom)
		// As if it had been killed before.
		stats := filepath.Join(cut.Out, "stats.jsonl")
		text, err := os.ReadFile(stats)
		require.NoError(t, err)
		var kept []string
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "val_loss") {
				kept = append(kept, line)
			}
		}
		if killed == 3 {
			require.NoError(t, os.Remove(filepath.Join(cut.Out, "best.json")))
			require.NoError(t, os.Remove(filepath.Join(cut.Out, "best.safetensors")))
			require.NoError(t, os.WriteFile(stats, []byte(strings.Join(kept, "")), 0o600))
		}
		cut.Scalars, cut.Resume = nil, true
		got, err := cut.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, losses(t, whole.Out), losses(t, cut.Out))
		require.Equal(t, want.BestStep, got.BestStep)
		require.Equal(t, weightsOf(t, want.Best), weightsOf(t, got.Best))
	}
}

// Where the best snapshot cannot be written, the result names none, and training ends as it does otherwise.
func TestBestCannotBeWritten(t *testing.T) {
	run := LoRA{Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
	once := false
	run.Progress = func(training.Progress) {
		if !once {
			once = true
			require.NoError(t, os.MkdirAll(filepath.Join(run.Out, "best.safetensors", "x"), 0o755))
		}
	}
	r, err := run.Train(t.Context())
	require.NoError(t, err)
	require.True(t, r.Finished)
	require.Empty(t, r.Best)
	require.NoFileExists(t, filepath.Join(run.Out, "best.json"))
	require.Len(t, losses(t, run.Out), 2)
}

// With other validation data, or another number of batches, losses cannot be compared: the best snapshot is chosen anew.
func TestOtherValidation(t *testing.T) {
	run := LoRA{Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
	first, err := run.Train(t.Context())
	require.NoError(t, err)
	// A loss that none is below.
	rewrite(t, filepath.Join(run.Out, "best.json"), `"val_loss": `, `"val_loss": -100, "was": `)
	run.Resume, run.Steps = true, 9
	same, err := run.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, first.BestStep, same.BestStep)
	require.InDelta(t, -100, same.BestLoss, 0)
	for _, change := range []func(){func() { run.ValBatches = new(2) }, func() { run.ValData = photos(t, 3) }} {
		change()
		rewrite(t, filepath.Join(run.Out, "best.json"), `"val_loss": `, `"val_loss": -100, "was": `)
		next, err := run.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, 9, next.BestStep, "no step is left to do, and its snapshot is validated")
		require.Positive(t, next.BestLoss)
	}
}

// A guidance of 0 in validation images is none, as 1 is, and not the sampler's default.
func TestValidationWithoutGuidance(t *testing.T) {
	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("a cat\n"), 0o600))
	model, data := base(t, "sd15"), photos(t, 2)
	for _, c := range []struct {
		given *float64
		want  float64
	}{{nil, 0}, {new(0.0), 1}, {new(1.0), 1}, {new(2.5), 2.5}} {
		run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		run.Steps, run.ValPrompts, run.ValGuide, run.ValBatches = 1, prompts, c.given, new(0)
		drawn := false
		run.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
			drawn = true
			require.InDelta(t, c.want, v.Guidance, 0)
			return []image.Image{image.NewRGBA(image.Rect(0, 0, 8, 8))}, nil
		}
		_, err := run.Train(t.Context())
		require.NoError(t, err)
		require.True(t, drawn)
	}
}

// A snapshot that changes nothing while the learning rate warms up is a warning, and an error after it.
func TestNoChangeInWarmup(t *testing.T) {
	run := LoRA{Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
	run.LR, run.LRWarmup, run.SaveDType = 1e-9, new(Warmup(6)), "f16"
	var log strings.Builder
	run.Log = slog.New(slog.NewTextHandler(&log, nil))
	_, err := run.Train(t.Context())
	var bad *SnapshotError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, filepath.Join(run.Out, "model-0000006.safetensors"), bad.Path)
	require.Contains(t, log.String(), "warm-up")
	require.Contains(t, log.String(), "step=3")
}

// The time of a session covers validation: one that takes longer is ended, and the run with it.
func TestDurationCoversValidation(t *testing.T) {
	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("a cat\n"), 0o600))
	run := LoRA{Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
	run.Steps, run.SaveEvery, run.ValPrompts, run.ValBatches, run.Duration = 1_000_000, 1, prompts, new(0), 2*time.Second
	var log strings.Builder
	run.Log = slog.New(slog.NewTextHandler(&log, nil))
	run.Draw = func(ctx context.Context, _ Sample) ([]image.Image, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Minute):
			return nil, errors.New("it was not ended")
		}
	}
	r, err := run.Train(t.Context())
	require.NoError(t, err)
	require.False(t, r.Finished)
	require.Equal(t, 1, r.Step)
	require.Contains(t, log.String(), "incomplete")
	require.NotContains(t, log.String(), "it was not ended")
}
