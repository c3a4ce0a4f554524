package finetune_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/training"
	. "github.com/onestep-go/onestep/training/finetune"
)

// Styles are trained with the denoising loss and its variants, with adapters of the text encoders, and beside a few-step adapter. Each loss
// is another, and each resumes.
func TestLoRA(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	few := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
	lcm, err := few.Train(t.Context())
	require.NoError(t, err)
	losses := map[float64]string{}
	for name, change := range map[string]func(r *LoRA){
		"plain": func(*LoRA) {}, "min-SNR": func(r *LoRA) { r.MinSNR = 0.5 }, "offset": func(r *LoRA) { r.NoiseOffset = 0.5 },
		"text": func(r *LoRA) { r.TextEncoder, r.TextLR = true, 0.02 }, "few-step": func(r *LoRA) { r.FewStep = lcm.Snapshot },
	} {
		run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		run.Steps = 3
		change(&run)
		r, err := run.Train(t.Context())
		require.NoError(t, err, name)
		require.Empty(t, losses[r.Loss], name)
		losses[r.Loss] = name
		texts := 0
		for tensor := range weightsOf(t, r.Snapshot) {
			if len(tensor) > 8 && tensor[:8] == "lora_te_" {
				texts++
			}
		}
		require.Equal(t, name == "text", texts > 0, name)
		require.NoError(t, os.Remove(r.Snapshot))
		run.Resume = true
		_, err = run.Train(t.Context())
		require.NoError(t, err, name)
	}
	// The same few-step adapter elsewhere is the same; another in its place is noticed.
	run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, FewStep: filepath.Join(t.TempDir(), "few.safetensors"), Match: 3}
	run.Steps = 1
	copyFile(t, lcm.Snapshot, run.FewStep)
	_, err = run.Train(t.Context())
	require.NoError(t, err)
	run.Resume, run.Steps = true, 2
	placed := run.FewStep
	run.FewStep = lcm.Snapshot
	_, err = run.Train(t.Context())
	require.NoError(t, err)
	run.FewStep, run.Steps = placed, 3
	copyFile(t, filepath.Join(few.Out, "model-0000003.safetensors"), placed)
	_, err = run.Train(t.Context())
	require.ErrorContains(t, err, "few_step_holds")

	wrong := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, FewStep: lcm.Snapshot, MinSNR: 5}
	_, err = wrong.Train(t.Context())
	var of *OptionError
	require.ErrorAs(t, err, &of)
	require.Equal(t, "few-step", of.Option)
}

// A resumed run beside a few-step adapter has the weights and the validation losses of one that was not interrupted, bit by bit: the first
// step of a process rounds as all others do.
func TestFewStepResumesExactly(t *testing.T) {
	oneThread(t)
	model, data := base(t, "sd15"), photos(t, 3)
	few := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
	lcm, err := few.Train(t.Context())
	require.NoError(t, err)
	style := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
	start, err := style.Train(t.Context())
	require.NoError(t, err)
	for name, change := range map[string]func(r *LoRA){
		"alone": func(r *LoRA) { r.Rank = 4 }, "from a style": func(r *LoRA) { r.Init = start.Snapshot },
	} {
		options := func(steps int) LoRA {
			r := LoRA{Run: tinyRun(t, model, data), FewStep: lcm.Snapshot}
			r.Steps, r.SaveEvery = steps, 2
			change(&r)
			return r
		}
		whole := options(4)
		want, err := whole.Train(t.Context())
		require.NoError(t, err)
		cut := options(2)
		_, err = cut.Train(t.Context())
		require.NoError(t, err)
		cut.Steps, cut.Resume = 4, true
		got, err := cut.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, weightsOf(t, want.State), weightsOf(t, got.State), name)
		require.Equal(t, losses(t, whole.Out), losses(t, cut.Out), name)
	}
}

// Training starts from an adapter's file: with its own ranks, which may be smaller than the default, it changes all its weights, in float32
// beside a half-precision model, and a resumed run has the weights of one that was not interrupted. What the file decides is refused as an
// option, and a file of another model is an error before anything is read.
func TestInit(t *testing.T) {
	oneThread(t)
	model, data := base(t, "sd15"), photos(t, 3)
	for _, c := range []struct {
		text  bool
		saved string
	}{{false, "f16"}, {true, "f32"}} {
		first := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4, Alpha: 2}, TextEncoder: c.text}
		first.Steps, first.SaveDType = 3, c.saved
		from, err := first.Train(t.Context())
		require.NoError(t, err)
		before := weightsOf(t, from.Snapshot)

		next := func() LoRA {
			r := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Init: from.Snapshot}}
			r.DType, r.EMA, r.SaveDType, r.Seed = "bf16", new(0.5), c.saved, 9
			return r
		}
		whole := next()
		p, err := whole.Plan(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(before)/3, p.Modules)
		require.NoError(t, p.Close())
		r, err := whole.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, before, weightsOf(t, from.Snapshot), "the file itself stays")
		after := weightsOf(t, r.Snapshot)
		require.Len(t, after, len(before))
		for name, was := range before {
			require.Equal(t, strings.HasSuffix(name, ".alpha"), was == after[name], name)
		}

		cut := next()
		ctx, stop := context.WithCancel(t.Context())
		cut.Progress = func(p training.Progress) {
			if p.Step == 4 {
				stop()
			}
		}
		_, err = cut.Train(ctx)
		require.ErrorIs(t, err, context.Canceled)
		cut.Progress, cut.Resume = nil, true
		got, err := cut.Train(t.Context())
		require.NoError(t, err)
		require.Equal(t, after, weightsOf(t, got.Snapshot))

		lcm := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Init: from.Snapshot}}
		_, err = lcm.Train(t.Context())
		require.Equal(t, c.text, err != nil, "distillation trains no text encoders: %v", err)

		for option, change := range map[string]func(r *LoRA){
			"rank": func(r *LoRA) { r.Rank = 64 }, "alpha": func(r *LoRA) { r.Alpha = 1 }, "targets": func(r *LoRA) { r.Targets = []string{"to_q"} },
			"text-encoder": func(r *LoRA) { r.TextEncoder = true }, "init": func(r *LoRA) { r.Model = base(t, "sdxl") },
		} {
			wrong := next()
			change(&wrong)
			_, err := wrong.Plan(t.Context())
			var of *OptionError
			require.ErrorAs(t, err, &of, option)
			require.Equal(t, option, of.Option)
		}
		lr := next()
		lr.TextLR = 0.1
		p, err = lr.Plan(t.Context())
		require.Equal(t, c.text, err == nil)
		if err == nil {
			require.NoError(t, p.Close())
		}
	}
}

// Beside a phased adapter a style is trained at the timesteps of as many sampling steps as there are phases, and its validation images are
// those of the sampler tcd with eta 0; beside one of trajectory consistency those of tcd. A style in place of a few-step adapter is noticed.
func TestFewStepKinds(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("a cat\n"), 0o600))
	var seen []Sample
	run := func() Run {
		r := tinyRun(t, model, data)
		r.Steps, r.SaveEvery, r.ValPrompts = 1, 1, prompts
		r.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
			seen = append(seen, v)
			return []image.Image{image.NewNRGBA(image.Rect(0, 0, 8, 8))}, nil
		}
		return r
	}
	zero := 0.0
	for name, c := range map[string]struct {
		change  func(r *LCM)
		sampler string
		eta     *float64
		steps   int
	}{
		"lcm":        {func(*LCM) {}, "lcm", nil, 4},
		"phased":     {func(r *LCM) { r.Phases = 2 }, "tcd", &zero, 2},
		"trajectory": {func(r *LCM) { r.Trajectory = true }, "tcd", nil, 4},
	} {
		seen = nil
		few := LCM{LoRA: true, Run: run(), Adapter: Adapter{Rank: 4}}
		c.change(&few)
		lcm, err := few.Train(t.Context())
		require.NoError(t, err, name)
		style := LoRA{Run: run(), Adapter: Adapter{Rank: 4}, FewStep: lcm.Snapshot}
		_, err = style.Train(t.Context())
		require.NoError(t, err, name)
		require.Len(t, seen, 2, name)
		for _, s := range seen {
			require.Equal(t, c.sampler, s.Sampler, name)
			require.Equal(t, c.eta, s.Eta, name)
			require.Equal(t, c.steps, s.Steps, name)
		}
		// It resumes with what its options.json has, and not without the adapter, whose part of the loss would be missing.
		text, err := os.ReadFile(filepath.Join(style.Out, "options.json"))
		require.NoError(t, err)
		values, err := ReadOptions(&style, text)
		require.NoError(t, err)
		again := LoRA{Run: run()}
		require.NoError(t, SetOptions(&again, values))
		again.Out, again.Resume, again.Steps, again.ValPrompts = style.Out, true, 2, ""
		_, err = again.Train(t.Context())
		require.NoError(t, err, name)
		without := LoRA{Run: again.Run, Adapter: Adapter{Rank: 4}}
		without.Steps = 3
		_, err = without.Train(t.Context())
		require.ErrorContains(t, err, "few_step was", name)
		// Conversion to another layout loses nothing of how the adapter is used.
		other := filepath.Join(t.TempDir(), "other.safetensors")
		convert(t, model, lcm.Snapshot, other, lora.PEFT)
		style.Out, style.ValSteps, style.FewStep = t.TempDir()+"/asked", 3, other
		_, err = style.Train(t.Context())
		require.NoError(t, err, name)
		require.Equal(t, 3, seen[2].Steps, name)
		require.Equal(t, c.sampler, seen[2].Sampler, name)
	}

	plain, err := LoRA{Run: run(), Adapter: Adapter{Rank: 4}}.Train(t.Context())
	require.NoError(t, err)
	p, err := LoRA{Run: run(), Adapter: Adapter{Rank: 4}, FewStep: plain.Snapshot}.Plan(t.Context())
	require.NoError(t, err)
	require.Contains(t, strings.Join(p.Notices(), "\n"), "was trained as a style")
	require.NoError(t, p.Close())
}

// Adapters whose weights are all zero are refused before training, and so is one adapter in both places, also as a copy.
func TestUselessAdapters(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	first, err := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}.Train(t.Context())
	require.NoError(t, err)
	dir := t.TempDir()
	zero, idle, twin := filepath.Join(dir, "zero.safetensors"), filepath.Join(dir, "idle.safetensors"), filepath.Join(dir, "twin.safetensors")
	copyFile(t, first.Snapshot, zero)
	empty(t, zero, "")
	copyFile(t, first.Snapshot, idle)
	empty(t, idle, "lora_up.weight")
	convert(t, model, first.Snapshot, twin, lora.PEFT)
	for _, c := range []struct{ init, few, option, want string }{
		{zero, "", "init", "zero.safetensors: all its weights or its scale are zero"},
		{"", zero, "few-step", "zero.safetensors: it has no effect"},
		{"", idle, "few-step", "idle.safetensors: it has no effect"},
		{first.Snapshot, twin, "few-step", "the same adapter"},
	} {
		run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Init: c.init}, FewStep: c.few}
		if c.init == "" {
			run.Rank = 4
		}
		_, err := run.Plan(t.Context())
		var of *OptionError
		require.ErrorAs(t, err, &of)
		require.Equal(t, c.option, of.Option)
		require.ErrorContains(t, err, c.want)
		require.NoDirExists(t, run.Out)
	}
	fresh := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Init: idle}} // as a new adapter is
	p, err := fresh.Plan(t.Context())
	require.NoError(t, err)
	require.Contains(t, strings.Join(p.Notices(), "\n"), "trained in another way (train-lcm)")
	require.NoError(t, p.Close())
}

// convert writes an adapter in another layout.
func convert(t *testing.T, model, from, to string, layout lora.Layout) {
	t.Helper()
	files, err := weights.Open(model, weights.Options{})
	require.NoError(t, err)
	f, err := lora.Open(from)
	require.NoError(t, err)
	require.NoError(t, f.Write(to, files, lora.WriteOptions{Layout: layout}))
	require.NoError(t, f.Close())
	require.NoError(t, files.Close())
}

// empty sets the values of the tensors whose names end so to zero in a safetensors file.
func empty(t *testing.T, path, ends string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	begin := 8 + binary.LittleEndian.Uint64(text)
	var header map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(text[8:begin], &header))
	for name, about := range header {
		var tensor struct {
			Offsets []uint64 `json:"data_offsets"`
		}
		if name != "__metadata__" && strings.HasSuffix(name, ends) {
			require.NoError(t, json.Unmarshal(about, &tensor))
			clear(text[begin+tensor.Offsets[0] : begin+tensor.Offsets[1]])
		}
	}
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// An adapter of the text encoders alone is trained: its snapshots are looked at with a prompt that they encode. As a few-step adapter, which acts on
// the U-Net, it is refused.
func TestTextAlone(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4, Targets: []string{"q_proj"}}, TextEncoder: true}
	r, err := run.Train(t.Context())
	require.NoError(t, err)
	for name := range weightsOf(t, r.Snapshot) {
		require.True(t, strings.HasPrefix(name, "lora_te_"), name)
	}
	style := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, FewStep: r.Snapshot}
	_, err = style.Plan(t.Context())
	var of *OptionError
	require.ErrorAs(t, err, &of)
	require.Equal(t, "few-step", of.Option)

	both := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, TextEncoder: true}
	r, err = both.Train(t.Context())
	require.NoError(t, err)
	style.FewStep = r.Snapshot
	p, err := style.Plan(t.Context())
	require.NoError(t, err)
	require.Contains(t, strings.Join(p.Notices(), "\n"), "modules for text encoders, which are not used")
	require.NoError(t, p.Close())
}
