package finetune_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
	. "github.com/onestep-go/onestep/training/finetune"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// photos makes a directory of n images with captions.
func photos(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		img := image.NewNRGBA(image.Rect(0, 0, 64, 64))
		for y := range 64 {
			for x := range 64 {
				img.SetNRGBA(x, y, color.NRGBA{uint8(40*i + 3*x), uint8(2*y + 20*i), uint8(x ^ y), 255})
			}
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.png", i)))
		require.NoError(t, err)
		require.NoError(t, png.Encode(f, img))
		require.NoError(t, f.Close())
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.txt", i)), fmt.Appendf(nil, "photo %d of a cat", i), 0o600))
	}
	return dir
}

// base writes a tiny model.
func base(t testing.TB, kind string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), kind)
	require.NoError(t, tiny.Write(dir, kind))
	return dir
}

// tinyRun are the options of a short run.
func tinyRun(t testing.TB, model, data string) Run {
	return Run{Model: model, Data: data, Steps: 6, Batch: 2, SaveEvery: 3, LR: 1e-2, Seed: 5, Cache: t.TempDir(), Out: filepath.Join(t.TempDir(), "run"), Adapters: lora.Adapters{}, SaveDType: "f32"}
}

// weightsOf reads the tensors of a file.
func weightsOf(t testing.TB, path string) map[string]string {
	t.Helper()
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	defer f.Close()
	all := map[string]string{}
	for x := range f.Tensors() {
		all[x.Name] = string(x.Data)
	}
	return all
}

// oneThread makes sums repeat to the bit.
func oneThread(t testing.TB) {
	n := torch.Threads()
	require.NoError(t, torch.SetThreads(1))
	t.Cleanup(func() { require.NoError(t, torch.SetThreads(n)) })
}

// An LCM-LoRA is trained, for SD and SDXL: its snapshots are adapters that the public loader reads, with the run's options in their
// metadata, and the network computes something else with them.
func TestLCMLoRA(t *testing.T) {
	for _, kind := range []string{"sd15", "sd2", "sdxl", "ssd1b"} {
		for _, layout := range []string{"", "peft"} {
			model := base(t, kind)
			run := LCM{LoRA: true, Run: tinyRun(t, model, photos(t, 3)), Adapter: Adapter{Rank: 4, Layout: layout}}
			r, err := run.Train(t.Context())
			require.NoError(t, err)
			require.True(t, r.Finished)
			require.Equal(t, run.Out+"/model-0000006.safetensors", r.Snapshot)
			require.FileExists(t, r.Best)
			m, err := sd.Open(model, sd.Options{})
			require.NoError(t, err)
			a, err := lora.Load(m, r.Snapshot, lora.Options{})
			require.NoError(t, err)
			require.Empty(t, a.Unmatched)
			meta := a.File().Metadata
			require.Equal(t, "run", meta["ss_output_name"])
			require.Equal(t, "6", meta["ss_steps"])
			require.Equal(t, 50, a.OriginalSteps())
			var options map[string]any
			require.NoError(t, json.Unmarshal([]byte(meta["onestep_options"]), &options))
			require.Equal(t, "train-lcm", options["run"])
			require.InDelta(t, 0.01, options["lr"], 0)
			require.NoError(t, a.Close())
			require.NoError(t, m.Close())
			stats, err := os.ReadFile(filepath.Join(run.Out, "stats.jsonl"))
			require.NoError(t, err)
			require.Equal(t, 2, strings.Count(string(stats), `"val_loss"`))
			run.Resume = true
			again, err := run.Train(t.Context())
			require.NoError(t, err, "nothing is left to do")
			require.Equal(t, r.Snapshot, again.Snapshot)
		}
	}
}

// A run that is killed after a step and resumed has the weights of one that was not, bit by bit, with a schedule, accumulation, an EMA, in
// the middle of an epoch, and where its checkpoint is older than its last step.
func TestResumeIsExact(t *testing.T) {
	oneThread(t)
	model, data := base(t, "sd15"), photos(t, 5)
	options := func() LCM {
		r := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		r.Steps, r.LRSchedule, r.LRWarmup, r.GradAccum, r.EMA, r.Flip, r.CaptionDropout = 8, "cosine", new(Warmup(0.25)), 2, new(0.9), true, new(0.3)
		return r
	}
	whole := options()
	want, err := whole.Train(t.Context())
	require.NoError(t, err)
	cut := options()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cut.Progress = func(p training.Progress) {
		if p.Step == 5 {
			stop()
		}
	}
	_, err = cut.Train(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, os.Remove(filepath.Join(cut.Out, "state-0000005.safetensors")), "as if it had been killed before it could save")
	cut.Progress, cut.Resume = nil, true
	got, err := cut.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, weightsOf(t, want.Snapshot), weightsOf(t, got.Snapshot))
	require.Equal(t, weightsOf(t, want.State), weightsOf(t, got.State))
	require.InDelta(t, want.Loss, got.Loss, 0)

	cut.LR = 0.5
	_, err = cut.Train(t.Context())
	require.ErrorContains(t, err, "lr was 0.01")
}

// A full latent consistency model is a directory of diffusers that opens as one.
func TestFullLCM(t *testing.T) {
	for _, kind := range []string{"sd15", "sdxl"} {
		run := LCM{Run: tinyRun(t, base(t, kind), photos(t, 3)), GuidanceSize: 32}
		run.Keep, run.Skip = 1, 30
		r, err := run.Train(t.Context())
		require.NoError(t, err)
		m, err := sd.Open(r.Snapshot, sd.Options{})
		require.NoError(t, err)
		require.True(t, m.Distilled())
		require.Equal(t, 32, m.UNet.Config().TimeCondProjDim)
		require.Contains(t, string(m.Scheduler), "LCMScheduler")
		require.Regexp(t, `"original_inference_steps": 33\b`, string(m.Scheduler), "1000/30")
		require.NoError(t, m.Close())
		if r.BestStep != 3 { // the best one is kept
			require.NoDirExists(t, filepath.Join(run.Out, "model-0000003"))
		}
	}
}

// Phased and trajectory consistency train something else than latent consistency, and say which sampler they are for.
func TestLCMVariants(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("a cat\n"), 0o600))
	losses := map[float64]bool{}
	for _, c := range []struct {
		phases     int
		trajectory bool
		sampler    string
	}{{0, false, "lcm"}, {2, false, "tcd"}, {4, false, "tcd"}, {0, true, "tcd"}} {
		run := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, Phases: c.phases, Trajectory: c.trajectory}
		run.Steps, run.ValPrompts = 3, prompts
		var sampler string
		run.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
			sampler = v.Sampler
			return []image.Image{image.NewRGBA(image.Rect(0, 0, 8, 8))}, nil
		}
		r, err := run.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, c.sampler, sampler)
		require.False(t, losses[r.Loss])
		losses[r.Loss] = true
	}
	full := LCM{Run: tinyRun(t, model, data), GuidanceSize: 32, Trajectory: true}
	full.Steps, full.ValPrompts, full.SaveDType = 3, prompts, "f16"
	full.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
		require.Equal(t, "tcd", v.Sampler)
		return []image.Image{image.NewRGBA(image.Rect(0, 0, 8, 8))}, nil
	}
	r, err := full.Train(t.Context())
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(full.Out, "samples-0000003.png"))
	m, err := sd.Open(r.Snapshot, sd.Options{})
	require.NoError(t, err)
	require.Contains(t, string(m.Scheduler), "TCDScheduler")
	require.Equal(t, weights.Scales{Min: 6, Max: 16}, m.Guidance)
	require.NoError(t, m.Close())
	dtypes := func(dir, part string) (all []safetensors.DType) {
		files, err := filepath.Glob(filepath.Join(dir, part, "*.safetensors"))
		require.NoError(t, err)
		require.Len(t, files, 1)
		f, err := safetensors.Open(files[0])
		require.NoError(t, err)
		defer f.Close()
		for x := range f.Tensors() {
			if !slices.Contains(all, x.DType) {
				all = append(all, x.DType)
			}
		}
		return all
	}
	require.Equal(t, []safetensors.DType{safetensors.F16}, dtypes(r.Snapshot, "unet"))
	for _, part := range []string{"vae", "text_encoder"} {
		require.Equal(t, dtypes(model, part), dtypes(r.Snapshot, part), "what is not trained keeps its type")
		require.NotContains(t, dtypes(model, part), safetensors.F16)
	}
}

// reads is an Adapters that fails, or reads another file than it was told.
type reads struct {
	lora.Adapters
	path string
	err  error
}

func (r reads) Open(m *sd.Model, path string, d *torch.DType) (sd.Adapter, error) {
	if r.err != nil {
		return nil, r.err
	}
	return r.Adapters.Open(m, r.path, d)
}

// Old snapshots are removed once a new one is known to be good, and the best never is, as a directory too; without it the best of the others is
// chosen anew.
func TestKeep(t *testing.T) {
	data := photos(t, 3)
	for _, adapter := range []bool{true, false} {
		run := LCM{LoRA: adapter, Run: tinyRun(t, base(t, "sd15"), data)}
		if adapter {
			run.Rank = 4
		}
		run.Steps, run.Keep = 3, 1
		path := func(step int) string {
			return filepath.Join(run.Out, fmt.Sprintf("model-%07d%s", step, map[bool]string{true: ".safetensors"}[adapter]))
		}
		there := func(want ...int) {
			t.Helper()
			for _, step := range []int{3, 6, 9, 12} {
				_, err := os.Stat(path(step))
				require.Equal(t, slices.Contains(want, step), err == nil, "step %d", step)
			}
		}
		first, err := run.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, first.BestStep)
		require.NoError(t, os.WriteFile(filepath.Join(run.Out, "best.json"), []byte(`{"step": 3, "val_loss": -1}`), 0o600))
		was := map[string]string{}
		if adapter {
			was = weightsOf(t, first.Best)
		}

		run.Resume, run.Steps = true, 9
		r, err := run.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, r.BestStep)
		if adapter {
			there(9)
			require.Equal(t, was, weightsOf(t, r.Best))
			run.Adapters, run.Steps = reads{err: errors.New("broken")}, 12
			_, err = run.Train(t.Context())
			require.Error(t, err)
			there(9)
			run.Adapters = lora.Adapters{}
		} else {
			there(3, 9)
			require.Equal(t, path(3), r.Best)
			m, err := sd.Open(r.Best, sd.Options{})
			require.NoError(t, err)
			require.NoError(t, m.Close())
		}
		require.NoError(t, os.RemoveAll(r.Best))
		run.Steps = 12
		r, err = run.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, 12, r.BestStep)
		_, err = os.Stat(r.Best)
		require.NoError(t, err)
	}
}

// A snapshot that cannot be read, or that is not what was trained, ends the run, whose checkpoint is there; a failure in drawing ends
// nothing.
func TestValidation(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	m, err := sd.Open(model, sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	fresh, err := lora.Adapters{}.New(m, sd.AdapterConfig{Rank: 4})
	require.NoError(t, err)
	defer fresh.Close()
	zero := filepath.Join(t.TempDir(), "zero.safetensors")
	require.NoError(t, fresh.Save(zero, sd.AdapterFile{}))
	broken := errors.New("it is broken")
	for name, adapters := range map[string]Adapters{"unreadable": reads{err: broken}, "no change": reads{path: zero}} {
		run := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		run.Adapters = adapters
		r, err := run.Train(t.Context())
		var bad *SnapshotError
		require.ErrorAs(t, err, &bad, name)
		require.Empty(t, r.Snapshot)
		require.NoFileExists(t, bad.Path, "nobody takes it for a good one")
		require.FileExists(t, bad.Rejected)
		require.ErrorContains(t, err, "model-0000003.safetensors.rejected")
		require.Equal(t, filepath.Join(run.Out, "model-0000003.safetensors"), bad.Path)
		require.Equal(t, name == "unreadable", errors.Is(err, broken))
		require.FileExists(t, filepath.Join(run.Out, "state-0000003.safetensors"))
		run.Adapters, run.Resume = lora.Adapters{}, true
		r, err = run.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, 6, r.Step)
	}

	// The last snapshot is not taken for good by resuming: it is written and read again.
	last := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
	last.Steps, last.Adapters = 3, reads{err: broken}
	for range 2 {
		_, err := last.Train(t.Context())
		require.ErrorIs(t, err, broken)
		last.Resume = true
	}
	last.Adapters = lora.Adapters{}
	r, err := last.Train(t.Context())
	require.NoError(t, err)
	require.FileExists(t, r.Snapshot)

	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("# two\na cat\n\na dog\n"), 0o600))
	for _, fails := range []string{"", "error", "panic"} {
		run := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		run.ValPrompts = prompts
		var drawn []int
		run.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
			switch fails {
			case "error":
				return nil, broken
			case "panic":
				panic("at the disco")
			}
			require.Equal(t, []string{"a cat", "a dog"}, v.Prompts)
			require.NotNil(t, v.Adapter)
			require.NoError(t, v.Model.Usable())
			require.Equal(t, 4, v.Steps)
			drawn = append(drawn, v.Step)
			return []image.Image{image.NewRGBA(image.Rect(0, 0, 8, 8)), image.NewRGBA(image.Rect(0, 0, 8, 8))}, nil
		}
		r, err := run.Train(t.Context())
		require.NoError(t, err)
		require.True(t, r.Finished)
		if fails == "" {
			require.Equal(t, []int{3, 6}, drawn)
			grid, err := os.ReadFile(filepath.Join(run.Out, "samples-0000006.png"))
			require.NoError(t, err)
			texts, err := vision.ReadTexts(bytes.NewReader(grid))
			require.NoError(t, err)
			require.Equal(t, "onestep_samples", texts[0].Keyword)
			require.Contains(t, texts[0].Value, "a dog")
		}
	}
}

// A guidance range of 0 to 0 is no guidance, not the default range, for full models too.
func TestNoTeacherGuidance(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 2)
	for _, full := range []bool{false, true} {
		losses := map[float64]bool{}
		for _, w := range [][2]*float64{{nil, nil}, {new(0.0), new(0.0)}, {new(5.0), new(15.0)}} {
			run := LCM{LoRA: !full, Run: tinyRun(t, model, data), WMin: w[0], WMax: w[1]}
			if run.Steps = 1; !full {
				run.Rank = 4
			}
			r, err := run.Train(t.Context())
			require.NoError(t, err)
			losses[r.Loss] = true
		}
		require.Len(t, losses, 2)
	}
}
