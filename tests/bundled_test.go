package tests

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// bundle writes an adapter's file with embeddings of files of their own in it, by name and keys.
func bundle(t *testing.T, adapter, to string, embeddings map[string]string, key func(string) string) string {
	t.Helper()
	var all []safetensors.Source
	add := func(path string, name func(string) string) map[string]string {
		f, err := safetensors.Open(path)
		require.NoError(t, err)
		for v := range f.Tensors() {
			all = append(all, safetensors.Source{Name: name(v.Name), DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes([]byte(string(v.Data)))})
		}
		meta := f.Metadata()
		require.NoError(t, f.Close())
		return meta
	}
	meta := add(adapter, func(name string) string { return name })
	for word, path := range embeddings {
		add(path, func(name string) string { return "bundle_emb." + word + "." + key(name) })
	}
	require.NoError(t, safetensors.Write(to, all, safetensors.Options{Metadata: meta}))
	return to
}

// Embeddings that an adapter's file brings along draw what the same embedding draws from a file of its own, in prompts and negative ones, and
// by tags in the prompts with the tag alone. They stay in files of kohya's layout.
func TestBundledEmbeddings(t *testing.T) {
	for _, c := range []struct {
		kind, adapter, embedding string
		key                      func(string) string
	}{
		{"sd15", "both-kohya", "kohya", asIs}, {"sd15", "both-kohya", "kohya", func(string) string { return "string_to_param.*" }},
		{"sdxl", "xl-kohya", "xl", asIs},
	} {
		file := bundle(t, "testdata/lora/"+c.adapter+".safetensors", filepath.Join(t.TempDir(), "with.safetensors"),
			map[string]string{"inked": embeddings + c.embedding + ".safetensors"}, c.key)
		m, err := sd.Open(filepath.Join(sdFolder, c.kind), sd.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Close()) })
		load := func(path string) *lora.Adapter {
			a, err := lora.Load(m, path, lora.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, a.Close()) })
			return a
		}
		a := load(file)
		require.Empty(t, a.Notices())
		words, err := a.Inversions()
		require.NoError(t, err)
		require.Len(t, words, 1)
		require.Equal(t, "inked", words[0].Word)
		own, err := sd.OpenInversion(embeddings + c.embedding + ".safetensors")
		require.NoError(t, err)
		own.Word = "inked"
		require.Equal(t, own.Parts, words[0].Parts)

		draw := func(text, negative string, change func(d *texttoimage.Pipeline)) []float32 {
			seen := &decoded{Autoencoder: m.VAE}
			m.VAE = seen
			defer func() { m.VAE = seen.Autoencoder }()
			d := texttoimage.Pipeline{Model: m, Steps: 2, Width: 32, Height: 32, Guidance: 3, Seed: 3, Negative: negative}
			change(&d)
			for _, err := range d.Run(t.Context(), strings.Split(text, "|")...) {
				require.NoError(t, err)
			}
			return seen.latents
		}
		none := func(d *texttoimage.Pipeline) { d.Adapters = a.At(1) }
		with := func(words ...sd.Inversion) func(d *texttoimage.Pipeline) {
			return func(d *texttoimage.Pipeline) { d.Adapters, d.Inversions = a.At(1), words }
		}
		tagged := func(d *texttoimage.Pipeline) {
			d.Tagged = func([]prompt.LoRA) (sd.Adaptation, error) {
				return sd.Adaptation{Adapters: a.At(1), Inversions: words}, nil
			}
		}
		for _, text := range [][2]string{{"an (inked:1.3) cat", ""}, {"a cat", "inked"}, {"inked", "an [Inked] dog"}} {
			want := draw(text[0], text[1], with(own))
			require.NotEqual(t, draw(text[0], text[1], none), want)
			require.Equal(t, want, draw(text[0], text[1], with(words...)))
			require.Equal(t, want, draw(text[0]+"<lora:with:1>", text[1], tagged))
		}
		// In a prompt without the tag the word is a word.
		n := len(draw("inked", "", func(*texttoimage.Pipeline) {}))
		require.Equal(t, draw("inked", "", func(*texttoimage.Pipeline) {}), draw("inked<lora:with:1>|inked", "", tagged)[n:])

		kept := filepath.Join(t.TempDir(), "kept.safetensors")
		require.NoError(t, a.Write(kept, lora.WriteOptions{Layout: lora.Kohya}))
		again, err := load(kept).Inversions()
		require.NoError(t, err)
		require.Equal(t, own.Parts, again[0].Parts)
	}
}

// What is no embedding is named, when it is asked for.
func TestBundledEmbeddingsRefuse(t *testing.T) {
	file := bundle(t, "testdata/lora/xl-kohya.safetensors", filepath.Join(t.TempDir(), "with.safetensors"), map[string]string{"inked": embeddings + "kohya.safetensors"},
		func(string) string { return "clip_l" })
	f, err := lora.Open(file)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Embeddings[0].Inversion()
	require.ErrorContains(t, err, "inked")
	require.ErrorContains(t, err, "clip_g")
}
