package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// writeEmbedding writes random vectors under the names of a layout, [n, width] each.
func writeEmbedding(t *testing.T, path string, seed uint64, n, width int, names ...string) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, seed)
		var all []safetensors.Source
		for _, name := range names {
			v := torch.Randn(s, g, torch.Float32, n, width).MulScalar(s, 0.5)
			all = append(all, safetensors.Source{Name: name, DType: safetensors.F32, Shape: []int{n, width}, Data: safetensors.Bytes(append([]byte{}, v.Bytes()...))})
		}
		return safetensors.Write(path, all, safetensors.Options{})
	}))
}

// Embeddings of one and of several vectors, two in a prompt, in negative prompts, and with weights are what diffusers makes of them after
// load_textual_inversion, and draw its images. The tolerances are those of float32 on two CPUs, as elsewhere: encodings within 1e-5, images
// within one level.
func TestDiffusersLoadsOurEmbeddings(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "PIL")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	layouts := map[string][]string{"sd15": {"emb_params"}, "sdxl": {"clip_l", "clip_g"}}
	words := map[string]int{"inked": 1, "washed": 3, "<cat-toy>": 2}
	type segment [2]any
	var jobs []map[string]any
	weighted := "a photo of (washed:1.4), (<cat-toy>:0.7) on a roof"
	segments := []segment{{"a photo of", 1}, {" washed ", 1.4}, {",", 1}, {" <cat-toy> ", 0.7}, {"on a roof", 1}}
	prompt, negative := "a photo of <cat-toy>, in the style of washed by inked", "blurry inked, washed"
	for kind, pipeline := range map[string]string{"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"} {
		require.NoError(t, tinysd.Write(at(kind), kind))
		files := map[string]string{}
		for word, n := range words {
			path := at(kind + "-" + map[string]string{"<cat-toy>": "cat-toy"}[word] + word[1:3] + ".safetensors")
			writeEmbedding(t, path, uint64(n), n, 16, layouts[kind]...)
			files[path] = word
		}
		jobs = append(jobs, map[string]any{
			"pipeline": pipeline, "model": at(kind), "files": files, "prompt": prompt, "negative": negative, "segments": segments, "out": at(kind + "-out"), "kind": kind,
		})
	}
	data, err := json.Marshal(jobs)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("jobs.json"), data, 0o666))
	script, err := filepath.Abs("testdata/embeddings_reads.py")
	require.NoError(t, err)
	runScript(t, python, ".", script, at("jobs.json"))

	for _, job := range jobs {
		kind := job["kind"].(string)
		m, err := sd.Open(at(kind), sd.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		var all []sd.Inversion
		for path, word := range job["files"].(map[string]string) {
			in, err := sd.OpenInversion(path)
			require.NoError(t, err)
			require.Equal(t, words[word], in.Vectors)
			in.Word = word
			all = append(all, in)
		}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				golden, _ := torchtest.Golden(t, s, at(kind+"-out.safetensors"))
				got := m.Embed(s, nil, sd.Text{Prompt: prompt, Inversions: all}, sd.Text{Prompt: negative, Inversions: all}, sd.Text{Prompt: weighted, Inversions: all})
				torchtest.Close(t, kind, got[0].Text, golden["text"], 1e-5, 1e-5)
				torchtest.Close(t, kind, got[1].Text, golden["negative"], 1e-5, 1e-5)
				torchtest.Close(t, kind, got[2].Text, golden["weighed"], 1e-4, 1e-5)
				if got[0].Pooled != nil {
					torchtest.Close(t, kind, got[0].Pooled, golden["pooled"], 1e-5, 1e-5)
				}
				return nil
			})
		}))
		d := texttoimage.Pipeline{Model: m, Method: scheduler.Euler{}, Steps: 3, Guidance: 3, Seed: 5, Width: 64, Height: 64, Negative: negative, Inversions: all}
		for st, err := range d.Run(t.Context(), prompt) {
			require.NoError(t, err)
			if st.Images != nil {
				worst := 0
				want, got := readPNG(t, at(kind+"-out.png")), st.Images[0]
				for y := range 64 {
					for x := range 64 {
						r, g, b, _ := want.At(x, y).RGBA()
						r2, g2, b2, _ := got.At(x, y).RGBA()
						for _, d := range []int{int(r>>8) - int(r2>>8), int(g>>8) - int(g2>>8), int(b>>8) - int(b2>>8)} {
							worst = max(worst, d, -d)
						}
					}
				}
				require.LessOrEqual(t, worst, 1, kind)
			}
		}
	}
}
