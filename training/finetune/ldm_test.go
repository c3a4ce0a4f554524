package finetune_test

import (
	"context"
	"encoding/json"
	"image"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	. "github.com/onestep-go/onestep/training/finetune"
)

// newModel are the options of a short run from scratch, on the autoencoder of a tiny model.
func newModel(t testing.TB, data string) LDM {
	run := tinyRun(t, "", data)
	run.Adapters = nil
	return LDM{Run: run, Autoencoder: base(t, "sd15"), Channels: []int{32, 32}, ZeroSNR: true, Prediction: "v"}
}

// A model is trained from scratch, U-Net and text encoder: its snapshots are directories that open as any model does, with the prediction,
// the noise schedule, the vocabulary and the scale of latents that were chosen, and a run that was killed and resumed has the weights of
// one that was not.
func TestLDM(t *testing.T) {
	oneThread(t)
	data := photos(t, 5)
	prompts := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(prompts, []byte("photo 1 of a cat\n"), 0o600))
	options := func() LDM {
		r := newModel(t, data)
		r.Steps, r.LRWarmup, r.EMA, r.Flip, r.ValPrompts = 8, new(Warmup(2)), new(0.9), true, prompts
		r.Keep = 1
		return r
	}
	whole := options()
	var drawn []Sample
	whole.Draw = func(_ context.Context, v Sample) ([]image.Image, error) {
		require.NoError(t, v.Model.Usable())
		drawn = append(drawn, v)
		return []image.Image{image.NewRGBA(image.Rect(0, 0, 8, 8))}, nil
	}
	want, err := whole.Train(t.Context())
	require.NoError(t, err)
	require.True(t, want.Finished)
	require.Len(t, drawn, 3)
	require.Equal(t, []any{20, 2.0, 64}, []any{drawn[0].Steps, drawn[0].Guidance, drawn[0].Width})
	require.FileExists(t, filepath.Join(whole.Out, "samples-0000008.png"))
	require.DirExists(t, want.Best, "the best is not removed")
	var entries map[string]any
	text, err := os.ReadFile(filepath.Join(whole.Out, "options.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &entries))
	require.InDelta(t, 0.1, entries["caption_dropout"], 0)
	require.InDelta(t, 0.99, entries["beta2"], 0)
	require.NotContains(t, entries, "model")

	m, err := sd.Open(want.Snapshot, sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	chain, predicts, err := m.Noise()
	require.NoError(t, err)
	require.Equal(t, noise.Velocity, predicts)
	require.Greater(t, chain.Sigma(chain.Steps()-1), 1000.0, "zero terminal SNR")
	require.Less(t, m.Texts[0].Tokenizer.Vocab(), 600)
	require.Equal(t, 16, m.Texts[0].Tokenizer.Max())
	spec, _, err := vae.SpecOf(m.VAE)
	require.NoError(t, err)
	require.InDelta(t, entries["scaling_factor"], spec.KL.ScalingFactor, 0)

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
	require.Equal(t, weightsOf(t, want.State), weightsOf(t, got.State))
	for _, part := range []string{"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"} {
		require.Equal(t, weightsOf(t, filepath.Join(want.Snapshot, part)), weightsOf(t, filepath.Join(got.Snapshot, part)), part)
	}
	require.InDelta(t, want.Loss, got.Loss, 0)

	cut.ScalingFactor = 0.5
	_, err = cut.Train(t.Context())
	require.ErrorContains(t, err, "scaling_factor was")

	// Its autoencoder and its tokenizer are identified.
	require.Contains(t, entries["model_holds"], "tokens, ")
	cut.ScalingFactor = 0
	weights := filepath.Join(cut.Autoencoder, "vae", "diffusion_pytorch_model.safetensors")
	changed, err := os.ReadFile(weights)
	require.NoError(t, err)
	changed[len(changed)-4] ^= 1
	require.NoError(t, os.WriteFile(weights, changed, 0o600))
	_, err = cut.Train(t.Context())
	require.ErrorContains(t, err, "autoencoder_holds was")
}

// Epsilon, the larger networks' options, and a constant learning rate, whose run may be made longer.
func TestLDMOptions(t *testing.T) {
	run := newModel(t, photos(t, 3))
	run.Prediction, run.ZeroSNR, run.MinSNR, run.Size, run.Channels = "epsilon", false, 5, "small", []int{32, 32, 32}
	run.LRSchedule, run.EMA, run.LRWarmup, run.Vocabulary, run.Tokens, run.ScalingFactor, run.Steps = "constant", new(0.0), new(Warmup(0)), 100, 12, 0.25, 2
	first, err := run.Train(t.Context())
	require.NoError(t, err)
	m, err := sd.Open(first.Snapshot, sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, 12, m.Texts[0].Tokenizer.Max())
	require.GreaterOrEqual(t, m.Texts[0].Tokenizer.Vocab(), 614)
	require.Len(t, m.UNet.Config().BlockOutChannels, 3)
	spec, _, err := vae.SpecOf(m.VAE)
	require.NoError(t, err)
	require.InDelta(t, 0.25, spec.KL.ScalingFactor, 0)
	run.Resume, run.Steps = true, 3
	r, err := run.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, r.Step)
	p, err := run.Plan(t.Context())
	require.NoError(t, err)
	defer p.Close()
	n, err := p.Need()
	require.NoError(t, err)
	require.Greater(t, n.Trained, 16*float64(p.Parameters)-1)
}

// What cannot be trained from scratch is refused before a run directory is made.
func TestLDMBadInput(t *testing.T) {
	data := photos(t, 2)
	bare := photos(t, 2)
	captions, err := filepath.Glob(filepath.Join(bare, "*.txt"))
	require.NoError(t, err)
	for _, path := range captions {
		require.NoError(t, os.Remove(path))
	}
	lone := t.TempDir()
	a, err := vae.NewTiny(vae.TAESD(), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer a.Close()
	require.NoError(t, torch.SaveSafetensors(filepath.Join(lone, "taesd_decoder.safetensors"), func(yield func(string, *torch.Tensor) bool) {
		for name, x := range a.Tensors() {
			if rest, ok := strings.CutPrefix(name, "decoder.layers."); ok {
				number, tail, _ := strings.Cut(rest, ".")
				if !yield(next(t, number)+"."+tail, x) {
					return
				}
			}
		}
	}, torch.SaveOptions{}))
	for name, c := range map[string]struct {
		change func(r *LDM)
		option string
		want   string
	}{
		"no autoencoder": {func(r *LDM) { r.Autoencoder = "" }, "autoencoder", "required"},
		"NaN": {func(r *LDM) {
			r.Autoencoder = filepath.Join(base(t, "sd15"), "vae")
			spoil(t, filepath.Join(r.Autoencoder, "diffusion_pytorch_model.safetensors"))
		}, "autoencoder", "NaN"},
		"none there":         {func(r *LDM) { r.Autoencoder = filepath.Join(data, "nothing") }, "autoencoder", "nothing"},
		"not an autoencoder": {func(r *LDM) { r.Autoencoder = filepath.Join(r.Autoencoder, "unet") }, "autoencoder", "unet"},
		"only a decoder":     {func(r *LDM) { r.Autoencoder = lone }, "autoencoder", "decoder"},
		"no data":            {func(r *LDM) { r.Data = "" }, "data", "required"},
		"no captions":        {func(r *LDM) { r.Data = bare }, "data", "caption"},
		"none at all":        {func(r *LDM) { r.Data, r.Uncaptioned = bare, true }, "data", "caption"},
		"levels":             {func(r *LDM) { r.Channels = []int{32} }, "channels", "2"},
		"groups":             {func(r *LDM) { r.Channels = []int{32, 40} }, "channels", "40"},
		"resolution":         {func(r *LDM) { r.Resolution = 65 }, "resolution", "65"},
		"zero SNR":           {func(r *LDM) { r.Prediction = "epsilon" }, "zero-snr", "prediction"},
		"a choice":           {func(r *LDM) { r.Size = "huge" }, "size", "mini"},
	} {
		t.Run(name, func(t *testing.T) {
			run := newModel(t, data)
			c.change(&run)
			_, err := run.Train(t.Context())
			var of *OptionError
			require.ErrorAs(t, err, &of)
			require.Equal(t, c.option, of.Option, "%v", err)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
			require.NoDirExists(t, run.Out)
		})
	}
	run := newModel(t, data)
	run.Model = "sd15"
	_, err = run.Train(t.Context())
	require.ErrorContains(t, err, "Model")
}

// next is the number after one in decimal.
func next(t testing.TB, number string) string {
	n, err := strconv.Atoi(number)
	require.NoError(t, err)
	return strconv.Itoa(n + 1)
}
