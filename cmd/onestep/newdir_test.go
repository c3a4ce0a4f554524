package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The directory of an output that does not exist is made by every command, and not before there is something to write.
func TestOutputInNewDirectory(t *testing.T) {
	const model, adapter = "../../tests/testdata/sd/sd15", "../../tests/testdata/lora/full-kohya.safetensors"
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for out, args := range map[string][]string{
		"generate/new/x.png":        {"generate", "--model", model, "--prompt", "x", "--steps", "1"},
		"sample/new/x.png":          {"sample", "--model", "builtin"},
		"inspect/new/x.png":         {"inspect", "--model", "builtin", "--n", "1"},
		"convert/new/x.safetensors": {"convert", "--model", model},
		"convertdir/new/x":          {"convert", "--model", model},
		"lora/new/x.safetensors":    {"lora", "convert", adapter, "--to", "kohya"},
		"merge/new/x.safetensors":   {"lora", "merge", "--model", model, "--lora", "../../tests/testdata/lora/both-kohya.safetensors"},
	} {
		code, _, errs := try(append(args, "--out", at(out))...)
		require.Zero(t, code, errs)
		if filepath.Ext(out) == "" {
			require.DirExists(t, at(out))
		} else {
			require.FileExists(t, at(out))
		}
	}
	code, _, errs := try("generate", "--model", at("nothing"), "--prompt", "x", "--out", at("failed/x.png"))
	require.Equal(t, 1, code, errs)
	code, _, errs = try("sample", "--model", model, "--out", at("failed/x.png"))
	require.NotZero(t, code, errs)
	require.NoDirExists(t, at("failed"))

	code, names, errs := try("generate", "--model", model, "--prompt", "a (red:1.2) cat", "--prompt", "a dog", "--steps", "1", "--seed", "4", "--out", at("{prompt}/{seed}-{i}.png"))
	require.Zero(t, code, errs)
	require.Equal(t, at("a_red_cat/4-00000.png")+"\n"+at("a_dog/4-00001.png")+"\n", names)
	require.FileExists(t, at("a_dog/4-00001.png"))
	code, _, errs = try("generate", "--model", model, "--prompt", "x", "--out", at("{text}.png"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "{prompt}")
}
