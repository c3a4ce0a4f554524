package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
)

// again writes an adapter's file anew with more tensors, of zeros, and other metadata.
func again(t *testing.T, from, to string, metadata map[string]string, more map[string][]int) {
	t.Helper()
	f, err := safetensors.Open(from)
	require.NoError(t, err)
	defer f.Close()
	var all []safetensors.Source
	for x := range f.Tensors() {
		all = append(all, safetensors.Source{Name: x.Name, DType: x.DType, Shape: x.Shape, Data: safetensors.Bytes(x.Data)})
	}
	for name, shape := range more {
		n := 4
		for _, d := range shape {
			n *= d
		}
		all = append(all, safetensors.Source{Name: name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, n))})
	}
	require.NoError(t, safetensors.Write(to, all, safetensors.Options{Metadata: metadata}))
}

// Adapters as they are found: what is harmless in them is said and changes nothing, what has no layer is left out where --lora-partial or
// --partial say so, and a tag finds a file by the name in its metadata.
func TestAdaptersFromTheWild(t *testing.T) {
	model, dir := adapters(t, "sd15")
	one := filepath.Join(dir, "one.safetensors")
	draw := func(name string, args ...string) (pixels []byte, errs string) {
		t.Helper()
		out := filepath.Join(dir, name+".png")
		code, _, errs := try(append([]string{"generate", "--model", model, "--prompt", "a cat", "--steps", "1", "--seed", "3", "--threads", "1", "--out", out}, args...)...)
		require.Zero(t, code, errs)
		return pixelsOf(t, out), errs
	}
	want, errs := draw("want", "--lora", one)
	require.NotContains(t, errs, "adapter one")

	extras := filepath.Join(dir, "extras.safetensors")
	again(t, one, extras, nil, map[string][]int{"bundle_emb.word.emb_params": {1, 16}, "lora_unet_gone.alpha": {}, "text_encoders.t5xxl.x.lora_up.weight": {1, 1}})
	got, errs := draw("extras", "--lora", extras)
	require.Equal(t, want, got)
	for _, part := range []string{"adapter extras", "lora_unet_gone.alpha", "T5"} {
		require.Contains(t, errs, part)
	}
	require.NotContains(t, errs, "embedding", "no prompt has its word")
	code, _, errs := try("lora", "convert", extras, "--model", model, "--to", "peft", "--out", filepath.Join(dir, "extras-peft.safetensors"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "word")
	code, _, errs = try("lora", "convert", extras, "--model", model, "--to", "kohya", "--out", filepath.Join(dir, "extras-kohya.safetensors"))
	require.Zero(t, code, errs)
	require.NotContains(t, errs, "word")
	code, _, errs = try("lora", "merge", "--model", model, "--lora", extras, "--out", filepath.Join(dir, "extras-merged"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "word")
	code, text, errs := try("lora", "info", filepath.Join(dir, "extras-kohya.safetensors"), "--json")
	require.Zero(t, code, errs)
	require.Contains(t, text, `"word"`)
	code, text, errs = try("lora", "info", extras, "--json")
	require.Zero(t, code, errs)
	var info struct{ Embeddings, Notices []string }
	require.NoError(t, json.Unmarshal([]byte(text), &info))
	require.Equal(t, []string{"word"}, info.Embeddings)
	require.Len(t, info.Notices, 2)
	_, text, _ = try("lora", "info", extras)
	require.Contains(t, text, "word")

	part := filepath.Join(dir, "part.safetensors")
	again(t, one, part, nil, map[string][]int{"lora_unet_nowhere.lora_down.weight": {2, 8}, "lora_unet_nowhere.lora_up.weight": {8, 2}})
	code, _, errs = try("generate", "--model", model, "--prompt", "a cat", "--lora", part, "--out", filepath.Join(dir, "no.png"))
	require.NotZero(t, code)
	require.Contains(t, errs, "--lora-partial")
	require.Contains(t, errs, "nowhere")
	got, errs = draw("part", "--lora", part, "--lora-partial")
	require.Equal(t, want, got)
	require.Contains(t, errs, "nowhere")
	merge := func(args ...string) (int, string) {
		code, _, errs := try(append([]string{"lora", "merge", "--model", model, "--lora", part, "--out", filepath.Join(dir, "merged")}, args...)...)
		return code, errs
	}
	code, errs = merge()
	require.NotZero(t, code)
	require.Contains(t, errs, "pass --partial")
	require.NoDirExists(t, filepath.Join(dir, "merged"))
	code, errs = merge("--partial")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "nowhere")
	convert := []string{"lora", "convert", part, "--to", "peft", "--model", model, "--out", filepath.Join(dir, "part-peft.safetensors")}
	code, _, errs = try(convert...)
	require.NotZero(t, code)
	require.Contains(t, errs, "pass --partial")
	code, _, errs = try(append(convert, "--partial")...)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "nowhere")

	library := filepath.Join(dir, "library")
	require.NoError(t, os.MkdirAll(filepath.Join(library, "sub"), 0o777))
	again(t, one, filepath.Join(library, "sub", "file-v2.safetensors"), map[string]string{"ss_output_name": "alias"}, nil)
	require.NoError(t, os.WriteFile(filepath.Join(library, "broken.safetensors"), []byte("no"), 0o666))
	alias := func() (int, string) {
		code, _, errs := try("generate", "--model", model, "--prompt", "a cat<lora:alias>", "--steps", "1", "--seed", "3", "--threads", "1", "--lora-dir", library, "--overwrite", "--out", filepath.Join(dir, "by-alias.png"))
		return code, errs
	}
	code, errs = alias()
	require.Zero(t, code, errs)
	require.Equal(t, want, pixelsOf(t, filepath.Join(dir, "by-alias.png")))
	again(t, one, filepath.Join(library, "file-v3.safetensors"), map[string]string{"ss_output_name": "alias"}, nil)
	code, errs = alias()
	require.NotZero(t, code)
	require.Contains(t, errs, "file-v2")
	require.Contains(t, errs, "file-v3")

	code, text, errs = try("lora", "info", one, "--model", model)
	require.Zero(t, code, errs)
	require.Contains(t, text, "every module fits")
	require.Equal(t, 1, strings.Count(text, "fit"), text)
}

// Numbers of a file are printed with the digits that it has.
func TestLoRAInfoNumbers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	var all []safetensors.Source
	for end, shape := range map[string][]int{".lora_down.weight": {2, 8}, ".lora_up.weight": {8, 2}} {
		all = append(all, safetensors.Source{Name: "lora_unet_x" + end, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, 64))})
	}
	alpha := binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.1))
	all = append(all, safetensors.Source{Name: "lora_unet_x.alpha", DType: safetensors.F32, Data: safetensors.Bytes(alpha)})
	require.NoError(t, safetensors.Write(path, all, safetensors.Options{}))
	code, text, errs := try("lora", "info", path, "--modules")
	require.Zero(t, code, errs)
	require.Contains(t, text, "0.1 (1)")
	require.NotContains(t, text, "0.10000")
}
