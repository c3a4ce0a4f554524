package texttoimage_test

import (
	"context"
	"image"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

func openKind(t *testing.T, kind string, o sd.Options) *sd.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), kind)
	require.NoError(t, tiny.Write(dir, kind))
	m, err := sd.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// same checks that images are equal to the last bit.
func same(t *testing.T, what string, want, got []image.Image) {
	t.Helper()
	require.Len(t, got, len(want), what)
	for i := range want {
		require.Equal(t, want[i], got[i], what)
	}
}

// Prompts that are encoded once give the images that the prompts give, to the last bit, as often as they are used; and so do the noise that
// the seeds would draw, and the latents that are decoded later.
func TestEmbedsAndLatents(t *testing.T) {
	ctx := context.Background()
	picture, mask := given()
	opened := map[string]*sd.Model{}
	for _, kind := range []string{"sd15", "sdxl", "lcm15"} {
		opened[kind] = openKind(t, kind, sd.Options{})
	}
	opened["bf16"] = openKind(t, "sd15", sd.Options{DType: torch.BFloat16})
	for _, c := range []struct {
		name, model string
		d           texttoimage.Pipeline
	}{
		{"guided", "sd15", texttoimage.Pipeline{Guidance: 5, Negative: "a dog with a very long tail"}},
		{"without guidance", "sd15", texttoimage.Pipeline{Guidance: texttoimage.NoGuidance}},
		{"two texts", "sdxl", texttoimage.Pipeline{Guidance: 5}},
		{"two texts, empty negative", "sdxl", texttoimage.Pipeline{Guidance: 5, EmptyNegative: true}},
		{"distilled", "lcm15", texttoimage.Pipeline{}},
		{"bfloat16", "bf16", texttoimage.Pipeline{Guidance: 3}},
		{"noise in steps", "sd15", texttoimage.Pipeline{Method: scheduler.EulerAncestral{}}},
		{"together", "sd15", texttoimage.Pipeline{Batch: 2, SharedNoise: true}},
		{"variation", "sd15", texttoimage.Pipeline{VariationSeed: 9, VariationStrength: 0.3}},
		{"from an image", "sd15", texttoimage.Pipeline{Init: picture, Strength: 0.7}},
		{"masked", "sd15", texttoimage.Pipeline{Init: picture, Mask: mask}},
		{"clip skip", "sd15", texttoimage.Pipeline{ClipSkip: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := c.d
			d.Model, d.Steps, d.Seed, d.N = opened[c.model], 2, 5, 2
			prompts := []string{"a cat", "a (red:1.3) house"}
			want := images(t, d, prompts...)
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				e := d
				e.ClipSkip = 0 // Encode has it
				for _, p := range prompts {
					embeds, err := d.Encode(ctx, s, p)
					require.NoError(t, err)
					e.PromptEmbeds = append(e.PromptEmbeds, embeds)
				}
				same(t, "embeddings", want, images(t, e))
				same(t, "embeddings, again", want, images(t, e))

				seeds := noise.Seeds(d.Seed, d.N)
				streams := noise.NewStreams(s, seeds...)
				if d.Init != nil {
					streams.Randn(s, torch.Float32, 4, 8, 8) // by which the image's latents are drawn
				}
				latents := streams.Randn(s, torch.Float32, 4, 8, 8)
				if d.SharedNoise {
					latents = torch.Randn(s, torch.NewGeneratorOn(s, torch.CPU, d.Seed), torch.Float32, 2, 4, 8, 8)
				}
				l := d
				l.Latents, l.N = latents, 0 // as many as there are latents
				same(t, "latents", want, images(t, l, prompts...))

				var after, decoded []image.Image
				for st, err := range d.Run(ctx, prompts...) {
					require.NoError(t, err)
					x, err := st.Latents(s)
					require.NoError(t, err)
					if st.I == st.Steps {
						some, err := d.Decode(ctx, x)
						require.NoError(t, err)
						after = append(after, some...)
					}
				}
				same(t, "final latents", want, after)
				l.LatentsOnly = true
				for st, err := range l.Run(ctx, prompts...) {
					require.NoError(t, err)
					require.Nil(t, st.Images)
					if st.I == st.Steps {
						x, err := st.Latents(s)
						require.NoError(t, err)
						some, err := d.Decode(ctx, x)
						require.NoError(t, err)
						decoded = append(decoded, some...)
					}
				}
				same(t, "latents alone", want, decoded)
				return nil
			}))
		})
	}
}

// The negative prompt of prompts that were encoded elsewhere is encoded beside them.
func TestEmbedsWithoutNegative(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []string{"sd15", "sdxl"} {
		d := texttoimage.Pipeline{Model: openKind(t, kind, sd.Options{}), Steps: 2, Guidance: 5, Negative: "a dog"}
		want := images(t, d, "a cat")
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			embeds, err := d.Encode(ctx, s, "a cat")
			require.NoError(t, err)
			embeds.Negative, embeds.NegativePooled = nil, nil
			d.PromptEmbeds = []texttoimage.Embeds{embeds}
			same(t, kind, want, images(t, d))
			return nil
		}))
	}
}

// What does not fit is refused before anything is generated; what has no effect is said.
func TestEmbedsAndLatentsRefuse(t *testing.T) {
	ctx := context.Background()
	m, xl := openKind(t, "sd15", sd.Options{}), openKind(t, "sdxl", sd.Options{})
	d, dxl := texttoimage.Pipeline{Model: m, Steps: 2, Guidance: 5}, texttoimage.Pipeline{Model: xl, Steps: 2, Guidance: 5}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		e, err := d.Encode(ctx, s, "a cat")
		require.NoError(t, err)
		exl, err := dxl.Encode(ctx, s, "a cat")
		require.NoError(t, err)
		freed := torch.Ones(s, torch.Float32, 1, 77, 16)
		freed.Free()
		zeros := func(shape ...int) *torch.Tensor { return torch.Zeros(s, torch.Float32, shape...) }
		for _, c := range []struct {
			want string
			d    texttoimage.Pipeline
			e    texttoimage.Embeds
		}{
			{"Prompt is nil", d, texttoimage.Embeds{}},
			{"Prompt: want shape [1 any 16], got [1 77 32]", d, texttoimage.Embeds{Prompt: exl.Prompt}},
			{"Prompt: want shape [1 any 16], got [2 77 16]", d, texttoimage.Embeds{Prompt: zeros(2, 77, 16)}},
			{"want the model's data type float32, got float16", d, texttoimage.Embeds{Prompt: e.Prompt.To(s, torch.Float16)}},
			{"want floating-point numbers, got int64", d, texttoimage.Embeds{Prompt: e.Prompt.To(s, torch.Int64)}},
			{"keep its scope open", d, texttoimage.Embeds{Prompt: freed}},
			{"1232 of 1232 values are not finite", d, texttoimage.Embeds{Prompt: torch.Full(s, math.NaN(), torch.Float32, 1, 77, 16)}},
			{"Negative: want shape [1 77 16], got [1 154 16]", d, texttoimage.Embeds{Prompt: e.Prompt, Negative: zeros(1, 154, 16)}},
			{"the negative prompt has 77 tokens and the prompt embeddings have 154", d, texttoimage.Embeds{Prompt: zeros(1, 154, 16)}},
			{"Pooled: the model does not take it", d, texttoimage.Embeds{Prompt: e.Prompt, Pooled: exl.Pooled}},
			{"Pooled: the model requires it: want shape [1, 24], got nil", dxl, texttoimage.Embeds{Prompt: exl.Prompt}},
			{"got NegativePooled without Negative", dxl, texttoimage.Embeds{Prompt: exl.Prompt, Pooled: exl.Pooled, NegativePooled: exl.Pooled}},
		} {
			c.d.PromptEmbeds = []texttoimage.Embeds{c.e}
			for _, err := range c.d.Images(ctx) {
				require.ErrorContains(t, err, c.want, c.want)
			}
		}
		for _, c := range []struct {
			want string
			x    *torch.Tensor
			d    texttoimage.Pipeline
		}{
			{"want shape [any 4 any any], got [1 3 8 8]", zeros(1, 3, 8, 8), d},
			{"want shape [3 4 8 8], for 3 images of 64×64 pixels, got [2 4 8 8]", zeros(2, 4, 8, 8), texttoimage.Pipeline{Model: m, N: 3}},
			{"want shape [1 4 8 16], for 1 image of 128×64 pixels, got [1 4 8 8]", zeros(1, 4, 8, 8), texttoimage.Pipeline{Model: m, Width: 128}},
			{"floating-point", torch.Zeros(s, torch.Int64, 1, 4, 8, 8), d},
			{"256 of 256 values are not finite", torch.Full(s, math.Inf(1), torch.Float32, 1, 4, 8, 8), d},
			{"keep its scope open", freed, d},
		} {
			c.d.Latents = c.x
			_, err := c.d.Plan("a cat")
			require.ErrorContains(t, err, c.want)
		}
		d := d
		d.Latents = zeros(2, 4, 8, 16)
		plan, err := d.Plan("a cat")
		require.NoError(t, err)
		require.Equal(t, []int{128, 64}, []int{plan.Width, plan.Height}, "the size is that of the latents")
		d.Latents, d.PromptEmbeds = nil, []texttoimage.Embeds{e}
		_, err = d.Plan("a cat")
		require.ErrorContains(t, err, "want only one of them")
		d.Negative, d.ClipSkip = "a dog", 1
		plan, err = d.Plan()
		require.NoError(t, err)
		require.Contains(t, joinNotices(plan.Notices), "the negative prompt has no effect on prompt embeddings 1")
		require.Contains(t, joinNotices(plan.Notices), "clip skip has no effect")
		d.LatentsOnly = true
		for _, err := range d.Images(ctx) {
			require.ErrorContains(t, err, "no images with LatentsOnly")
		}
		for _, err := range d.Results(ctx) {
			require.ErrorContains(t, err, "no images with LatentsOnly")
		}
		d.PromptEmbeds = nil
		_, err = d.Encode(ctx, s, "a cat <lora:x:1>")
		require.Error(t, err)
		done, cancel := context.WithCancel(ctx)
		cancel()
		_, err = d.Encode(done, s, "a cat")
		require.ErrorIs(t, err, context.Canceled)
		_, err = d.Decode(done, zeros(1, 4, 8, 8))
		require.ErrorIs(t, err, context.Canceled)
		_, err = d.Decode(ctx, zeros(1, 3, 8, 8))
		require.ErrorContains(t, err, "want shape [any 4 any any], got [1 3 8 8]")
		_, err = d.Decode(ctx, nil)
		require.Error(t, err)
		_, err = texttoimage.Progress{}.Latents(s)
		require.ErrorIs(t, err, torch.ErrFreed)
		return nil
	}))
}
