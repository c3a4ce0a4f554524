package tests

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

const embeddings = "testdata/embeddings/"

// Embeddings in every layout make of a prompt what diffusers makes of it after load_textual_inversion. The tolerance is what two CPUs differ
// by in float32, as elsewhere. A model is the same before and after, and several goroutines may use it with other embeddings.
func TestEmbeddingsAreDiffusers(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	golden, meta := torchtest.Golden(t, s, embeddings+"golden.safetensors")
	models := map[string]*sd.Model{}
	for _, kind := range []string{"sd15", "sdxl"} {
		m, err := sd.Open("testdata/sd/"+kind, sd.Options{})
		require.NoError(t, err)
		defer m.Close()
		models[kind] = m
	}
	var all sync.WaitGroup
	for _, c := range []struct{ file, kind, word, form string }{
		{"learned_embeds.bin", "sd15", "<cat-toy>", "diffusers"}, {"diffusers.safetensors", "sd15", "<dog-toy>", "diffusers"},
		{"kohya.safetensors", "sd15", "kohya", "A1111"}, {"a1111.pt", "sd15", "a1111", "A1111"}, {"xl.safetensors", "sdxl", "xl", "SDXL"},
	} {
		in, err := sd.OpenInversion(embeddings + c.file)
		require.NoError(t, err)
		require.Equal(t, c.word, in.Word)
		require.Equal(t, c.form, in.Form)
		m := models[c.kind]
		text := sd.Text{Prompt: strings.ReplaceAll(meta["prompt"], "{0}", strings.ToUpper(in.Word)), Plain: true, Inversions: []sd.Inversion{in}}
		require.NoError(t, m.Check(text))
		all.Add(1)
		go func() {
			defer all.Done()
			err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					got := m.Embed(s, nil, text)[0]
					torchtest.Close(t, c.file, got.Text, golden[c.file], 1e-5, 1e-5)
					if got.Pooled != nil {
						torchtest.Close(t, c.file, got.Pooled, golden["xl.pooled"], 1e-5, 1e-5)
					}
					without := text
					without.Inversions = nil
					if got.Text.Sub(s, m.Embed(s, nil, without)[0].Text).Norm(s).Item() < 0.1 {
						t.Errorf("%s: the embedding changes nothing", c.file)
					}
					return nil
				})
			})
			if err != nil {
				t.Errorf("%s: %v", c.file, err)
			}
		}()
	}
	all.Wait()
	old, err := sd.OpenInversion(embeddings + "old.pt") // a ParameterDict
	require.NoError(t, err)
	require.Equal(t, 2, old.Vectors)
}

// What is no embedding of the model is named.
func TestEmbeddingsThatDoNotFit(t *testing.T) {
	m, err := sd.Open("testdata/sd/sd15", sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	pair, err := sd.OpenInversion(embeddings + "xl.safetensors")
	require.NoError(t, err)
	err = m.Check(sd.Text{Prompt: "xl", Inversions: []sd.Inversion{pair}})
	require.ErrorContains(t, err, "16 and 16")
	one, err := sd.OpenInversion(embeddings + "kohya.safetensors")
	require.NoError(t, err)
	require.ErrorContains(t, m.Check(sd.Text{Inversions: []sd.Inversion{one, one}}), "kohya")
	models, err := filepath.Glob("testdata/sd/sd15/unet/*.safetensors")
	require.NoError(t, err)
	_, err = sd.OpenInversion(models[0])
	require.ErrorContains(t, err, "sd15")
	_, err = sd.Open(embeddings+"a1111.pt", sd.Options{})
	require.ErrorContains(t, err, "textual inversion")
}

// Embeddings of a directory are found by the names of their files, which are their words; what is not wanted is not opened.
func TestFindInversions(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "below"), 0o777))
	data, err := os.ReadFile(embeddings + "kohya.safetensors")
	require.NoError(t, err)
	for _, name := range []string{"one.safetensors", "below/two.SAFETENSORS", "three.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	broken := filepath.Join(dir, "four.safetensors")
	require.NoError(t, os.WriteFile(broken, data[:20], 0o666))
	var asked []string
	all, err := sd.FindInversions(dir, func(path, word string) bool {
		asked = append(asked, word)
		return word != "four"
	})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"one", "two", "four"}, asked)
	require.Len(t, all, 2)
	require.Equal(t, []string{"two", "one"}, []string{all[0].Word, all[1].Word})
	require.Equal(t, filepath.Join(dir, "one.safetensors"), all[1].Path)
	_, err = sd.FindInversions(dir, func(string, string) bool { return true })
	require.ErrorContains(t, err, broken)
}
