package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
)

// metadataOf returns the metadata of a file, and the names of its tensors that are empty.
func metadataOf(t *testing.T, path string) (meta map[string]string, empty []string) {
	t.Helper()
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	meta = maps.Clone(f.Metadata())
	for v := range f.Tensors() {
		if len(v.Data) == 0 {
			empty = append(empty, v.Name)
		}
	}
	slices.Sort(empty)
	require.NoError(t, f.Close())
	return meta, empty
}

// Single files that convert and lora merge write describe the model by ModelSpec: its title, what it is made of, its size, and what it predicts,
// which the tensors of other programs say, too. What the source says of itself is kept where it still holds.
func TestModelSpec(t *testing.T) {
	model, dir := adapters(t, "sd15")
	at := func(name string) string { return filepath.Join(dir, name) }
	config := filepath.Join(model, "scheduler", "scheduler_config.json")
	data, err := os.ReadFile(config)
	require.NoError(t, err)
	text := strings.Replace(string(data), `"epsilon"`, `"v_prediction"`, 1)
	text = strings.Replace(text, "{", `{"rescale_betas_zero_snr": true,`, 1)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o666))
	run := func(args ...string) {
		t.Helper()
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
	}
	name := filepath.Base(model)
	check := func(path, title, merged string) map[string]string {
		t.Helper()
		meta, empty := metadataOf(t, path)
		require.Equal(t, []string{"v_pred", "ztsnr"}, empty)
		require.Equal(t, "v", meta["modelspec.prediction_type"])
		require.Equal(t, "stable-diffusion-v1", meta["modelspec.architecture"])
		require.Equal(t, "64x64", meta["modelspec.resolution"])
		require.Equal(t, title, meta["modelspec.title"])
		require.Equal(t, merged, meta["modelspec.merged_from"])
		require.NotEmpty(t, meta["modelspec.sai_model_spec"])
		require.NotEmpty(t, meta["modelspec.implementation"])
		return meta
	}
	run("convert", "--model", model, "--out", at("single.safetensors"))
	check(at("single.safetensors"), name, "")

	f, err := safetensors.Open(at("single.safetensors"))
	require.NoError(t, err)
	meta := maps.Clone(f.Metadata())
	maps.Copy(meta, map[string]string{
		"modelspec.title": "A Model", "modelspec.author": "somebody", "modelspec.license": "CC0", "modelspec.hash_sha256": "0x12", "modelspec.description": "draws",
	})
	var all []safetensors.Source
	for v := range f.Tensors() {
		all = append(all, safetensors.Source{Name: v.Name, DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes(slices.Clone(v.Data))})
	}
	require.NoError(t, f.Close())
	require.NoError(t, safetensors.Write(at("said.safetensors"), all, safetensors.Options{Metadata: meta}))
	run("convert", "--model", at("said.safetensors"), "--dtype", "f16", "--out", at("half.safetensors"))
	meta = check(at("half.safetensors"), "A Model", "")
	require.Equal(t, "somebody", meta["modelspec.author"])
	require.Equal(t, "CC0", meta["modelspec.license"])
	require.NotContains(t, meta, "modelspec.hash_sha256", "of other bytes")

	run("lora", "merge", "--model", at("said.safetensors"), "--lora", at("one.safetensors"), "--out", at("merged.safetensors"))
	meta = check(at("merged.safetensors"), "merged", "A Model, one")
	require.Equal(t, "CC0", meta["modelspec.license"])
	require.NotContains(t, meta, "modelspec.author")
	run("lora", "merge", "--model", model, "--lora", at("one.safetensors"), "--out", at("merged2.safetensors"))
	check(at("merged2.safetensors"), "merged2", name+", one")
	run("convert", "--model", at("said.safetensors"), "--unet", model, "--out", at("other.safetensors"))
	meta = check(at("other.safetensors"), "other", "")
	require.NotContains(t, meta, "modelspec.description")

	// What is written draws as its source. In bfloat16, as weights that are used where the files are mapped give sums that depend on their
	// address (TestWeightsAtOtherAddresses).
	draw := func(out, model string, more ...string) []byte {
		run(append([]string{"generate", "--model", model, "--prompt", "x", "--steps", "2", "--seed", "3", "--threads", "1", "--dtype", "bf16", "--out", at(out)}, more...)...)
		return pixelsOf(t, at(out))
	}
	require.Equal(t, draw("a.png", model), draw("b.png", at("single.safetensors")))
}
