package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
)

// Embeddings change the images whose prompts name them, by flag and by directory alike; the PNG records them, and repeats to the byte.
func TestGenerateWithEmbeddings(t *testing.T) {
	const files = "../../tests/testdata/embeddings"
	model, dir := "../../tests/testdata/sd/sd15", t.TempDir()
	out := func(name string) string { return filepath.Join(dir, name+".png") }
	draw := func(name, prompt string, more ...string) ([]byte, string) {
		t.Helper()
		args := append([]string{"generate", "--model", model, "--prompt", prompt, "--steps", "2", "--seed", "3", "--threads", "1", "--out", out(name)}, more...)
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
		return pixelsOf(t, out(name)), errs
	}
	word := "a (kohya:1.2) cat"
	bare, _ := draw("bare", word)
	flag, _ := draw("flag", word, "--embedding", filepath.Join(files, "kohya.safetensors"))
	require.NotEqual(t, bare, flag)
	folder, _ := draw("folder", "a (KOHYA:1.2) cat", "--embedding-dir", files)
	require.Equal(t, flag, folder, "by the file's name, in any case")
	negative, _ := draw("negative", word, "--negative", "a1111", "--embedding-dir", files, "--guidance", "5")
	plain, _ := draw("plain", word, "--negative", "a1111", "--embedding", filepath.Join(files, "kohya.safetensors"), "--guidance", "5")
	require.NotEqual(t, plain, negative, "negative prompts have embeddings, too")
	_, errs := draw("unused", "a cat", "--embedding", filepath.Join(files, "kohya.safetensors"))
	require.Contains(t, errs, "no effect")

	comfy, errs := draw("comfy", "a (embedding:KOHYA.safetensors:1.2) cat", "--embedding-dir", files)
	require.Equal(t, flag, comfy, "as ComfyUI names it")
	require.NotContains(t, errs, "embedding:")
	_, errs = draw("unknown", "a cat, embedding:nothing", "--embedding-dir", files)
	require.Contains(t, errs, "embedding:nothing")
	_, errs = draw("weight", "embedding:kohya:1.2 cat", "--embedding-dir", files)
	require.Contains(t, errs, "(embedding:kohya:1.2)")

	code, text, errs := try("info", out("negative"))
	require.Zero(t, code, errs)
	require.Contains(t, text, "TI hashes")
	code, _, errs = try("generate", "--from", out("negative"), "--threads", "1", "--out", out("again"))
	require.Zero(t, code, errs)
	want, err := os.ReadFile(out("negative"))
	require.NoError(t, err)
	got, err := os.ReadFile(out("again"))
	require.NoError(t, err)
	require.Equal(t, want, got)

	code, text, errs = try("info", filepath.Join(files, "xl.safetensors"))
	require.Zero(t, code, errs)
	require.Contains(t, text, "textual inversion")
	adapter := filepath.Join("../../tests/testdata/lora", "full-kohya.safetensors")
	for _, c := range [][]string{
		{"--embedding", adapter}, {"--embedding", filepath.Join(model, "model_index.json")}, {"--embedding", filepath.Join(dir, "missing.pt")},
		{"--embedding-dir", filepath.Join(files, "xl.safetensors")}, {"--lora", filepath.Join(files, "kohya.safetensors")},
	} {
		code, _, errs := try(append([]string{"generate", "--model", model, "--prompt", word, "--steps", "1", "--out", out("refused")}, c...)...)
		require.NotZero(t, code, c)
		require.Contains(t, errs, filepath.Base(c[1]))
		require.NoFileExists(t, out("refused"))
	}
}

// An embedding of another model is reported as one, with its widths and the model's, whatever prompt has its word.
func TestGenerateWithEmbeddingOfAnotherModel(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "wide.safetensors")
	require.NoError(t, safetensors.Write(file, []safetensors.Source{{Name: "emb_params", DType: safetensors.F32, Shape: []int{1, 768}, Data: safetensors.Bytes(make([]byte, 4*768))}}, safetensors.Options{}))
	for _, model := range []string{"sd15", "sdxl"} {
		for _, given := range [][]string{{"--embedding", file}, {"--embedding-dir", dir}, {"--embedding", file, "--negative", "wide"}} {
			code, _, errs := try(append([]string{"generate", "--model", "../../tests/testdata/sd/" + model, "--prompt", "a wide cat", "--steps", "1", "--out", filepath.Join(dir, "no.png")}, given...)...)
			require.Equal(t, 1, code, errs)
			for _, want := range []string{`"wide"`, file, "768", "Stable Diffusion 1", "16", model} {
				require.Contains(t, errs, want)
			}
			require.NotContains(t, errs, "prompt")
		}
	}
}

// Embeddings that an adapter's file brings along are used where prompts have their words; the PNG repeats them by the adapter.
func TestGenerateWithBundledEmbeddings(t *testing.T) {
	const file, model, adapter = "../../tests/testdata/embeddings/kohya.safetensors", "../../tests/testdata/sd/sd15", "../../tests/testdata/lora/both-kohya.safetensors"
	dir := t.TempDir()
	out := func(name string) string { return filepath.Join(dir, name) }
	var all []safetensors.Source
	for path, prefix := range map[string]string{adapter: "", file: "bundle_emb.inked."} {
		f, err := safetensors.Open(path)
		require.NoError(t, err)
		for v := range f.Tensors() {
			all = append(all, safetensors.Source{Name: prefix + v.Name, DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes(append([]byte{}, v.Data...))})
		}
		require.NoError(t, f.Close())
	}
	require.NoError(t, safetensors.Write(out("with.safetensors"), all, safetensors.Options{}))
	draw := func(name string, more ...string) ([]byte, string) {
		t.Helper()
		args := append([]string{"generate", "--model", model, "--steps", "2", "--seed", "3", "--threads", "1", "--out", out(name)}, more...)
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
		return pixelsOf(t, out(name)), errs
	}
	word := "an (INKED:1.2) cat"
	without, _ := draw("without.png", "--prompt", word, "--lora", adapter)
	want, _ := draw("want.png", "--prompt", word, "--lora", adapter, "--embedding", file+"=inked")
	require.NotEqual(t, without, want)
	got, errs := draw("got.png", "--prompt", word, "--lora", out("with.safetensors"))
	require.Equal(t, want, got)
	require.NotContains(t, errs, "embedding")
	got, _ = draw("tag.png", "--prompt", word+"<lora:with:1>", "--lora-dir", dir)
	require.Equal(t, want, got)
	got, errs = draw("both.png", "--prompt", word, "--lora", out("with.safetensors"), "--embedding", "../../tests/testdata/embeddings/a1111.pt=inked")
	require.NotEqual(t, want, got, "the one that is asked for by name")
	require.Contains(t, errs, "inked")
	require.Contains(t, errs, "a1111.pt")
	for _, name := range []string{"got", "tag"} {
		code, _, errs := try("generate", "--from", out(name+".png"), "--threads", "1", "--out", out(name+"-again.png"))
		require.Zero(t, code, errs)
		first, err := os.ReadFile(out(name + ".png"))
		require.NoError(t, err)
		again, err := os.ReadFile(out(name + "-again.png"))
		require.NoError(t, err)
		require.Equal(t, first, again)
	}
}
