package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// weightsOf copies the tiny weights of another code under a name, with settings beside them.
func weightsOf(t *testing.T, dir, name, settings string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "models", "checkpoint", "testdata", "consistency.pt"))
	require.NoError(t, err)
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	if settings != "" {
		require.NoError(t, os.WriteFile(strings.TrimSuffix(path, ".pt")+".json", []byte(settings), 0o644))
	}
	return path
}

const tinySettings = `{"image_size": 8, "num_head_channels": 16}`

// Weights of openai/consistency_models are sampled, described, converted to a model of onestep's and back; all of them give the same image.
func TestConvertLayouts(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	model := weightsOf(t, dir, "cd_tiny.pt", tinySettings)
	done := func(args ...string) (string, string) {
		t.Helper()
		code, out, errs := try(args...)
		require.Zero(t, code, errs)
		return out, errs
	}
	image := func(model, name string) []byte {
		t.Helper()
		done("sample", "--model", model, "--label", "4", "--seed", "7", "--threads", "1", "--out", at(name))
		return pixelsOf(t, at(name))
	}
	_, errs := done("sample", "--model", model, "--label", "4", "--seed", "7", "--threads", "1", "--out", at("a.png"))
	require.Contains(t, errs, "openai/consistency_models")
	require.Contains(t, errs, "cd_tiny.json")
	out, _ := done("info", model)
	require.Contains(t, out, "consistency model")
	require.Contains(t, out, "9 classes")
	require.Contains(t, out, "layout consistency_models")
	require.Contains(t, out, "note: ")

	own, back := at("own.safetensors"), at("back.safetensors")
	_, errs = done("convert", "--model", model, "--out", own)
	require.Contains(t, errs, "sigma_data")
	done("convert", "--model", own, "--layout", "consistency_models", "--out", back)
	out, _ = done("info", back, "--all")
	require.Contains(t, out, "middle_block.1.qkv.weight")
	require.NotContains(t, out, "note: ")
	folder := at("folder") // of diffusers
	done("convert", "--model", model, "--out", folder)
	for _, m := range []string{own, back, folder} {
		require.Equal(t, pixelsOf(t, at("a.png")), image(m, filepath.Base(m)+".png"))
	}
	half := at("half.safetensors")
	done("convert", "--model", back, "--dtype", "f16", "--out", half)
	out, _ = done("info", half)
	require.Contains(t, out, "F16")
	halfOwn := at("half-own.safetensors") // from our own layout, the type alone
	done("convert", "--model", own, "--dtype", "f16", "--out", halfOwn)
	out, _ = done("info", halfOwn)
	require.Contains(t, out, "F16")
	require.NotContains(t, out, "step 0", "how it was trained is not known")
	require.Equal(t, image(half, "half.png"), image(halfOwn, "half-own.png"))

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"convert", "--model", own, "--out", at("x.safetensors")}, "--layout is missing"},
		{[]string{"convert", "--model", own, "--layout", "edm", "--out", at("x.safetensors")}, own + ": NVlabs/edm has no network with "},
		{[]string{"convert", "--model", model, "--variant", "fp16", "--out", at("x.safetensors")}, "--variant"},
		{[]string{"convert", "--model", model, "--out", own}, "exists"},
		{[]string{"sample", "--model", weightsOf(t, dir, "cd_bare.pt", ""), "--out", at("x.png")}, `"image_size"`},
		{[]string{"sample", "--model", weightsOf(t, dir, "tiny.pt", tinySettings), "--out", at("x.png")}, "training_mode"},
	} {
		code, _, errs := try(c.args...)
		require.NotZero(t, code, c.args)
		require.Contains(t, errs, c.want, c.args)
	}
}

// They are teachers and starting points of training.
func TestTrainFromOpenAI(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	teacher := weightsOf(t, dir, "edm_tiny.pt", tinySettings)
	common := strings.Fields("--data emoji --resolution 8 --classes --steps 2 --batch 2 --threads 1")
	code, _, errs := try(append([]string{"train", "--method", "cd", "--teacher", teacher, "--out", at("cd")}, common...)...)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "openai/consistency_models")
	code, _, errs = try(append([]string{"train", "--method", "ect", "--init", teacher, "--out", at("ect")}, common...)...)
	require.Zero(t, code, errs)
	for _, run := range []string{"cd", "ect"} {
		code, _, errs = try("sample", "--model", at(run), "--n", "2", "--out", at(run+".png"))
		require.Zero(t, code, errs)
		code, _, errs = try("convert", "--model", at(run), "--layout", "consistency_models", "--out", at(run+".safetensors"))
		require.Zero(t, code, errs)
	}
}

// A pickle with code is refused by what gets its weights out.
func TestInfoOfPickledCode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edm.pkl")
	require.NoError(t, os.WriteFile(path, []byte("\x80\x04\x95abc"), 0o644))
	for _, args := range [][]string{{"info", path}, {"sample", "--model", path, "--out", path + ".png"}, {"convert", "--model", path, "--out", path + ".safetensors"}} {
		code, _, errs := try(args...)
		require.NotZero(t, code)
		require.Contains(t, errs, "scripts/edm_weights.py", args)
	}
}
