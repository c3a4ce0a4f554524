package finetune_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	. "github.com/onestep-go/onestep/training/finetune"
)

// What cannot be trained is refused in a line that names the option and the thing, before a run directory is made.
func TestBadInput(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 2)
	other := base(t, "sdxl")
	folder := func(change func(dir string)) string {
		dir := filepath.Join(t.TempDir(), "model")
		require.NoError(t, os.CopyFS(dir, os.DirFS(model)))
		change(dir)
		return dir
	}
	images := func(size int, caption bool) string {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "a.png"))
		require.NoError(t, err)
		require.NoError(t, png.Encode(f, image.NewNRGBA(image.Rect(0, 0, size, size))))
		require.NoError(t, f.Close())
		if caption {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("a cat"), 0o600))
		}
		return dir
	}
	xl, err := sd.Open(other, sd.Options{})
	require.NoError(t, err)
	defer xl.Close()
	fresh, err := lora.Adapters{}.New(xl, sd.AdapterConfig{Rank: 2})
	require.NoError(t, err)
	defer fresh.Close()
	foreign := filepath.Join(t.TempDir(), "foreign.safetensors")
	require.NoError(t, fresh.Save(foreign, sd.AdapterFile{}))
	kohya := filepath.Join(t.TempDir(), "kohya.txt")
	require.NoError(t, os.WriteFile(kohya, []byte("# two\na cat --w 512 --h 512\n"), 0o600))
	few := filepath.Join(t.TempDir(), "few.txt")
	require.NoError(t, os.WriteFile(few, []byte("# none\n"), 0o600))

	for name, c := range map[string]struct {
		change func(r *LCM)
		option string
		want   []string
	}{
		"no model":        {func(r *LCM) { r.Model = "" }, "model", []string{"required"}},
		"no data":         {func(r *LCM) { r.Data = "" }, "data", []string{"required"}},
		"empty directory": {func(r *LCM) { r.Data = t.TempDir() }, "data", nil},
		"no captions":     {func(r *LCM) { r.Data = images(64, false) }, "data", []string{"caption"}},
		"no text encoder": {func(r *LCM) {
			r.Model = folder(func(dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "text_encoder"))) })
		}, "model", []string{"text"}},
		"inpainting":   {func(r *LCM) { r.Model = base(t, "inpaint") }, "model", []string{"inpainting"}},
		"an LCM":       {func(r *LCM) { r.Model = base(t, "lcm15") }, "model", []string{"latent consistency model"}},
		"rank":         {func(r *LCM) { r.Rank = 17 }, "rank", []string{"16", "17"}},
		"targets":      {func(r *LCM) { r.Targets = []string{"nowhere"} }, "targets", nil},
		"one target":   {func(r *LCM) { r.Targets = []string{"to_q", "nowhere"} }, "targets", []string{"nowhere"}},
		"resolution":   {func(r *LCM) { r.Resolution = 100 }, "resolution", []string{"100×100"}},
		"clip skip":    {func(r *LCM) { r.ClipSkip = 11 }, "clip-skip", []string{"11"}},
		"no val data":  {func(r *LCM) { r.ValData = "nowhere" }, "val-data", []string{"nowhere"}},
		"another base": {func(r *LCM) { r.Rank, r.Init = 0, foreign }, "init", []string{"foreign.safetensors"}},
		"no adapter":   {func(r *LCM) { r.LoRA = false }, "rank", []string{"lora"}},
		"w":            {func(r *LCM) { r.WMin = new(20.0) }, "w-min", []string{"15", "20"}},
		"warm-up":      {func(r *LCM) { r.LRSchedule, r.LRWarmup = "cosine", new(Warmup(6)) }, "lr-warmup", []string{"6"}},
		"long warm-up": {func(r *LCM) { r.LRWarmup = new(Warmup(7)) }, "lr-warmup", []string{"6", "7"}},
		"a choice":     {func(r *LCM) { r.Loss = "l3" }, "loss", []string{"huber", "l2"}},
		"no prompts":   {func(r *LCM) { r.ValPrompts = few }, "val-prompts", []string{"0 prompts"}},
		"target":       {func(r *LCM) { r.TargetEMA = new(0.9) }, "target-ema", []string{"lora"}},
		"embedding":    {func(r *LCM) { r.GuidanceSize = 32 }, "guidance-size", []string{"lora"}},
		"huber":        {func(r *LCM) { r.Loss, r.HuberC = "l2", 0.1 }, "huber-c", []string{"l2"}},
		"layout":       {func(r *LCM) { r.LoRA, r.Rank, r.Layout = false, 0, "peft" }, "layout", []string{"lora"}},
		"val-steps":    {func(r *LCM) { r.ValSteps = 7 }, "val-steps", []string{"val_prompts"}},
		"val-guidance": {func(r *LCM) { r.ValGuide = new(0.0) }, "val-guidance", []string{"val_prompts"}},
		"val-data":     {func(r *LCM) { r.ValData, r.ValBatches = data, new(0) }, "val-data", []string{"val_batches"}},
		"kohya's":      {func(r *LCM) { r.ValPrompts = kohya }, "val-prompts", []string{"line 2", "--w"}},
		"two methods":  {func(r *LCM) { r.Phases, r.Trajectory = 4, true }, "phases", []string{"trajectory"}},
		"phases":       {func(r *LCM) { r.Phases = 51 }, "phases", []string{"50", "51"}},
		"kept tokens":  {func(r *LCM) { r.KeepTokens = 2 }, "keep-tokens", []string{"shuffle"}},
	} {
		t.Run(name, func(t *testing.T) {
			run := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
			c.change(&run)
			_, err := run.Train(t.Context())
			var of *OptionError
			require.ErrorAs(t, err, &of)
			if name != "another base" { // whose tensors a plan does not read
				_, planned := run.Plan(t.Context())
				require.EqualError(t, planned, err.Error(), "a plan refuses it, too")
			}
			require.Equal(t, c.option, of.Option, "%v", err)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "\n")
			require.NoDirExists(t, run.Out)
		})
	}
}

// So is what has no effect on a style.
func TestBadStyle(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 2)
	for option, change := range map[string]func(r *LoRA){"match": func(r *LoRA) { r.Match = 3 }, "text-lr": func(r *LoRA) { r.TextLR = 0.1 }} {
		run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		change(&run)
		_, err := run.Train(t.Context())
		var of *OptionError
		require.ErrorAs(t, err, &of)
		require.Equal(t, option, of.Option, "%v", err)
		require.NoDirExists(t, run.Out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, text, 0o600))
}

// NaN in the weights of any component of a model ends a run before it trains, also in the decoder, which only images of snapshots use.
func TestWeightsThatAreNotFinite(t *testing.T) {
	for part, file := range map[string]string{"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"} {
		model := base(t, "sd15")
		spoil(t, filepath.Join(model, part, file+".safetensors"))
		run := LCM{LoRA: true, Run: tinyRun(t, model, photos(t, 2)), Adapter: Adapter{Rank: 4}}
		_, err := run.Train(t.Context())
		var of *OptionError
		require.ErrorAs(t, err, &of)
		require.Equal(t, "model", of.Option)
		require.ErrorContains(t, err, strings.ReplaceAll(part, "vae", "autoencoder")+": 1 of ")
		require.ErrorContains(t, err, "NaN")
		require.NoDirExists(t, run.Out)
	}
}

// spoil makes the last weight of a file of float32 NaN.
func spoil(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	copy(text[len(text)-4:], "\x00\x00\xc0\x7f")
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// One image is enough, and one that is smaller than the training size.
func TestOneSmallImage(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "a.png"))
	require.NoError(t, err)
	require.NoError(t, png.Encode(f, image.NewNRGBA(image.Rect(0, 0, 20, 30))))
	require.NoError(t, f.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("a cat"), 0o600))
	run := LCM{LoRA: true, Run: tinyRun(t, base(t, "sd15"), dir), Adapter: Adapter{Rank: 4}}
	run.Steps = 2
	r, err := run.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(4), r.Seen)
}

// A snapshot that cannot be saved ends the run with the one before in place.
func TestSavingFails(t *testing.T) {
	run := LCM{LoRA: true, Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
	full := errors.New("no space left on device")
	run.Adapters = fails{after: 1, err: full}
	_, err := run.Train(t.Context())
	require.ErrorIs(t, err, full)
	f, err := safetensors.Open(filepath.Join(run.Out, "model-0000003.safetensors"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	run.Adapters, run.Resume = lora.Adapters{}, true
	r, err := run.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, 6, r.Step)
}

// fails is an Adapters whose adapters cannot be saved after some times.
type fails struct {
	lora.Adapters
	after int
	err   error
}

type unsaved struct {
	sd.Adapter
	left *int
	err  error
}

func (f fails) New(m *sd.Model, c sd.AdapterConfig) (sd.Adapter, error) {
	a, err := f.Adapters.New(m, c)
	return unsaved{a, &f.after, f.err}, err
}

func (u unsaved) Save(path string, f sd.AdapterFile) error {
	if *u.left--; *u.left < 0 {
		return u.err
	}
	return u.Adapter.Save(path, f)
}

// Beside a frozen model in float16 the loss is scaled, for adapters of all kinds; a full model, which is float32, needs none. Nothing is warned
// of, and a checkpoint has the scale.
func TestFloat16ScalesTheLoss(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 2)
	var log bytes.Buffer
	options := func() Run {
		r := tinyRun(t, model, data)
		r.DType, r.Steps, r.Log = "f16", 2, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		return r
	}
	lcm := LCM{LoRA: true, Run: options(), Adapter: Adapter{Rank: 4}}
	style := LoRA{TextEncoder: true, Run: options(), Adapter: Adapter{Rank: 4}}
	full := LCM{Run: options()}
	for name, train := range map[string]func(context.Context) (Result, error){"lcm": lcm.Train, "style": style.Train, "full": full.Train} {
		r, err := train(t.Context())
		require.NoError(t, err, name)
		require.True(t, r.Finished)
		f, err := safetensors.Open(r.State)
		require.NoError(t, err)
		require.Equal(t, name != "full", strings.Contains(fmt.Sprint(f.Metadata()), `"loss_scale":`), "%s: %v", name, f.Metadata())
		require.NoError(t, f.Close())
	}
	require.Empty(t, log.String())
}

// The frozen model may be in half precision, and its blocks may be computed again: the adapter stays in float32.
func TestHalfPrecisionAndCheckpointing(t *testing.T) {
	var losses []float64
	for _, checkpointing := range []bool{false, true} {
		run := LCM{LoRA: true, Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
		run.DType, run.Steps, run.Checkpointing = "bf16", 3, checkpointing
		r, err := run.Train(t.Context())
		require.NoError(t, err)
		losses = append(losses, r.Loss)
		w, err := torch.OpenWeights(r.State)
		require.NoError(t, err)
		s := torch.NewScope(torch.CPU)
		for name, x := range w.All(s) {
			require.NotEqual(t, torch.BFloat16, x.DType(), name)
		}
		s.Close()
		require.NoError(t, w.Close())
	}
	require.InEpsilon(t, losses[0], losses[1], 0.05)
}

// A full model trains in mixed precision: its loss is near that of float32, its checkpoints are float32, and a run is resumed in its own
// precision only. An adapter has none: its network is frozen.
func TestMixedPrecisionOfFullModels(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 2)
	losses := map[string]float64{}
	for _, precision := range []string{"f32", "bf16", "f16"} {
		run := LCM{Run: tinyRun(t, model, data), GuidanceSize: 32}
		run.Precision, run.Steps, run.Checkpointing = precision, 1, precision == "bf16"
		r, err := run.Train(t.Context())
		require.NoError(t, err)
		require.Zero(t, r.Skipped)
		losses[precision] = r.Loss
		w, err := torch.OpenWeights(r.State)
		require.NoError(t, err)
		s := torch.NewScope(torch.CPU)
		for name, x := range w.All(s) {
			require.Contains(t, []torch.DType{torch.Float32, torch.Int64}, x.DType(), name)
		}
		s.Close()
		require.NoError(t, w.Close())
		if precision == "bf16" {
			run.Precision, run.Resume, run.Steps = "f32", true, 2
			_, err = run.Train(t.Context())
			require.ErrorContains(t, err, "precision")
		}
	}
	require.InEpsilon(t, losses["f32"], losses["bf16"], 0.1)
	require.InEpsilon(t, losses["f32"], losses["f16"], 0.02)
	require.NotEqual(t, losses["f32"], losses["bf16"])

	run := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
	run.Precision = "bf16"
	_, err := run.Train(t.Context())
	var of *OptionError
	require.ErrorAs(t, err, &of)
	require.Equal(t, "precision", of.Option)
	_, is := options.Named(&LoRA{}, "precision")
	require.False(t, is)
}
