package engine

import (
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

// tinyModel writes a tiny Stable Diffusion model with an adapter, inkwash, in a directory, which it returns.
func tinyModel(t *testing.T, kind string) (m Model, adapters string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "model"), kind))
	open, err := sd.Open(filepath.Join(dir, "model"), sd.Options{})
	require.NoError(t, err)
	adapters = filepath.Join(dir, "adapters")
	require.NoError(t, os.Mkdir(adapters, 0o777))
	ink, err := lora.New(lora.Of(open), lora.Config{Rank: 4, Targets: []string{"to_q", "to_v"}, Seed: 1})
	require.NoError(t, err)
	require.NoError(t, ink.Write(filepath.Join(adapters, "inkwash.safetensors"), lora.WriteOptions{}))
	require.NoError(t, ink.Close())
	require.NoError(t, open.Close())
	return Model{Name: kind, Open: func() (*generate.Model, error) { return generate.Open(filepath.Join(dir, "model"), sd.Options{}) }}, adapters
}

// Stable Diffusion serves prompts with adapters, input images and masks, with previews, and several prompts in one batch.
func TestDiffusion(t *testing.T) {
	m, adapters := tinyModel(t, "sd15")
	slow := newGate()
	blocked := fake{before: slow.wait}.with(t)
	o := Options{Models: []Model{m, blocked}, LoRA: lora.CacheOptions{Dir: adapters}, Observe: nil}
	e := engineOf(t, o)
	t.Cleanup(slow.open)
	names, err := e.Adapters()
	require.NoError(t, err)
	require.Equal(t, []string{"inkwash"}, names)

	got := read(ctx, e, Request{Prompt: "a cat", Seed: new(uint64(5)), N: 2, Steps: 3, Sampler: "ddim", Guidance: 3, Previews: 1, Width: 60, Height: 64})
	require.NoError(t, got.err)
	require.Len(t, got.images, 2)
	require.Equal(t, Resolved{Model: "sd15", N: got.as.N, Sampler: "ddim", Steps: 3, Guidance: 3, Seed: 5, Width: 60, Height: 64, Notices: got.as.Notices}, *got.as)
	require.Contains(t, got.images[1].Texts[0].Value, "a cat\nSteps: 3, ")
	require.Equal(t, -1, got.images[0].Label)
	shown := 0
	for _, ev := range got.events {
		if ev.Previews != nil {
			shown++
			require.Len(t, ev.Previews, 2)
			require.Equal(t, image.Pt(60, 64), ev.Previews[0].Bounds().Size())
		}
	}
	require.Equal(t, 1, shown)
	info := e.Models()[0]
	require.Equal(t, []any{true, 64, 64, true}, []any{info.Prompts, info.Width, info.Height, info.Loaded})

	// Several clients' prompts in one batch.
	batches := make(chan Observation, 100)
	e = engineOf(t, Options{Models: o.Models, LoRA: o.LoRA, Observe: func(o Observation) { batches <- o }})
	require.NoError(t, read(ctx, e, Request{Prompt: "warm", Steps: 1}).err)
	<-batches
	first := start(t, ctx, e, Request{Model: "fake"})
	<-slow.reached
	requests := []Request{
		{Prompt: "a dog"}, {Prompt: "a cat", N: 2}, {Prompt: "a bird <lora:inkwash:1>"}, {Prompt: "a fox <lora:inkwash:1>"}, {Prompt: "an elk", Negative: "fog"},
		{Prompt: strings.Repeat("a very long prompt ", 30)},
	}
	var all []<-chan result
	for i, r := range requests {
		r.Steps, r.Seed, r.Client = 2, new(uint64(10*i)), fmt.Sprint(i)
		requests[i] = r
		all = append(all, start(t, ctx, e, r))
	}
	slow.open()
	require.NoError(t, (<-first).err)
	for i, done := range all {
		together := <-done
		alone := read(ctx, e, requests[i])
		require.NoError(t, together.err)
		require.NoError(t, alone.err)
		require.Equal(t, alone.as, together.as)
		require.Len(t, together.images, len(alone.images))
		for k, img := range together.images {
			require.Equal(t, alone.images[k].Texts, img.Texts)
			require.LessOrEqual(t, torchtest.Levels(alone.images[k].Image, img.Image), 2)
		}
	}
	sizes := map[int]int{}
	for range 1 + 2*len(requests) {
		sizes[(<-batches).Batch]++
	}
	// Together: 3 requests with 4 images, 2 with the adapter, 1. Alone: as many as they ask for. And the one that blocked.
	require.Equal(t, map[int]int{4: 3, 2: 2 + 1, 1: 1 + 1 + 5}, sizes)

	init, mask := image.NewRGBA(image.Rect(0, 0, 64, 64)), image.NewGray(image.Rect(0, 0, 32, 32))
	for i := range 16 * 32 {
		mask.Pix[i] = 255
	}
	for _, r := range []Request{{Init: init, Strength: 0.5}, {Init: init, Strength: LeastStrength}, {Init: init, Mask: mask}} {
		r.Prompt, r.Steps = "a cat", 2
		got := read(ctx, e, r)
		require.NoError(t, got.err)
		require.Equal(t, image.Pt(64, 64), got.images[0].Image.Bounds().Size())
	}
	for field, r := range map[string]Request{
		"Prompt": {Prompt: "a <lora:inkwahs:1>"}, "LoRAs": {LoRAs: []prompt.LoRA{{Name: "../ink", Weight: 1}}}, "Negative": {Negative: "a <lora:inkwash:1>"},
		"Prompt ": {Prompt: strings.Repeat("BREAK ", 1000)}, // more chunks than a text encoder should have to encode
	} {
		err := read(ctx, e, r).err
		var refused *RequestError
		require.ErrorAs(t, err, &refused, field)
		require.Equal(t, strings.TrimSpace(field), refused.Field)
		require.NotContains(t, err.Error(), adapters, "the server's paths are its own")
		if field == "Prompt" {
			require.ErrorContains(t, err, "inkwash?")
		}
	}
	require.NoError(t, e.Close(), "adapters go before their model")
}

// An adapter of another model is the request's fault; an inpainting model needs its images.
func TestDiffusionOfOtherKinds(t *testing.T) {
	m, _ := tinyModel(t, "inpaint")
	_, adapters := tinyModel(t, "sdxl")
	e := engineOf(t, Options{Models: []Model{m}, LoRA: lora.CacheOptions{Dir: adapters}})
	var refused *RequestError
	require.ErrorAs(t, read(ctx, e, Request{Prompt: "a cat"}).err, &refused)
	require.Equal(t, "Init", refused.Field)
	blank := image.NewGray(image.Rect(0, 0, 64, 64))
	white := image.NewGray(image.Rect(0, 0, 64, 64))
	for i := range white.Pix {
		white.Pix[i] = 255
	}
	r := Request{Prompt: "a cat", Init: blank, Mask: white, Steps: 2}
	require.NoError(t, read(ctx, e, r).err)
	r.LoRAs = []prompt.LoRA{{Name: "inkwash", Weight: 1, Text: 1}}
	require.ErrorAs(t, read(ctx, e, r).err, &refused)
	require.Equal(t, "LoRAs", refused.Field)
}

// A few-step adapter, by name or by tag, brings the grid of timesteps that it was distilled on: 4 steps are too many for one of 2.
func TestAdaptersGrid(t *testing.T) {
	m, adapters := tinyModel(t, "sd15")
	ink, err := lora.Open(filepath.Join(adapters, "inkwash.safetensors"))
	require.NoError(t, err)
	defer ink.Close()
	require.NoError(t, ink.Write(filepath.Join(adapters, "few.safetensors"), nil, lora.WriteOptions{Metadata: map[string]string{"onestep_original_inference_steps": "2"}}))
	e := engineOf(t, Options{Models: []Model{m}, LoRA: lora.CacheOptions{Dir: adapters}})
	for _, r := range []Request{{Prompt: "a cat", LoRAs: []prompt.LoRA{{Name: "few", Weight: 1}}}, {Prompt: "a cat <lora:few:1>"}} {
		r.Sampler, r.Guidance = "lcm", 1
		got := read(ctx, e, r)
		require.NoError(t, got.err)
		require.Equal(t, 2, got.as.Steps)
		require.Contains(t, strings.Join(got.as.Notices, "\n"), "grid of 2")
		r.Steps = 4
		var bad *RequestError
		require.ErrorAs(t, read(ctx, e, r).err, &bad)
		require.Equal(t, "Steps", bad.Field)
	}
}

// Settings of images have the served name and the files' hash, and clients learn which guidance the model is for.
func TestServedName(t *testing.T) {
	m, _ := tinyModel(t, "sd15")
	m.Name, m.Hash, m.File = "my model", "0a1b2c3d", "model"
	class := fake{}.with(t)
	class.Name = "shapes"
	e := engineOf(t, Options{Models: []Model{m, class}})
	got := read(ctx, e, Request{Prompt: "a cat", Steps: 1, Width: 16, Height: 16})
	require.NoError(t, got.err)
	text, _ := vision.Lookup(got.images[0].Texts, vision.Parameters)
	require.Contains(t, text, ", Model hash: 0a1b2c3d, Model: my model,")
	info := e.Models()[0]
	require.Equal(t, []any{"model", true, 1.0, info.Steps, info.Steps}, []any{info.File, info.Negative, info.Guidance, info.InputSteps, info.MaskSteps})

	got = read(ctx, e, Request{Model: "shapes", Prompt: "dog"})
	require.NoError(t, got.err)
	text, _ = vision.Lookup(got.images[0].Texts, "onestep")
	require.Contains(t, text, `"model":"shapes"`)
}

// An adapter that cannot be used is the fault of the field that names it, and where the files lie is not said.
func TestBrokenAdapter(t *testing.T) {
	m, adapters := tinyModel(t, "sd15")
	require.NoError(t, os.WriteFile(filepath.Join(adapters, "broken.safetensors"), []byte("nothing"), 0o666))
	e := engineOf(t, Options{Models: []Model{m}, LoRA: lora.CacheOptions{Dir: adapters}})
	for field, r := range map[string]Request{
		"LoRAs":  {Prompt: "a cat", LoRAs: []prompt.LoRA{{Name: "inkwash", Weight: 1}, {Name: "broken", Weight: 1}}},
		"Prompt": {Prompt: "a cat <lora:broken:1>", LoRAs: []prompt.LoRA{{Name: "inkwash", Weight: 1}}},
	} {
		err := read(ctx, e, r).err
		var bad *RequestError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, field, bad.Field, err)
		require.Contains(t, bad.Msg, `"broken"`)
		require.NotContains(t, bad.Msg, filepath.Dir(adapters))
	}
}
