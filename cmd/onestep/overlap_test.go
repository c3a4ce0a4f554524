package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

// What a command reads, and what is part of another model, is not replaced, wherever links lead.
func TestOutputIsNoInput(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	other, link, single, adapter := at("other"), at("link"), at("single.safetensors"), at("adapter.safetensors")
	require.NoError(t, tiny.Write(other, "sd2"))
	require.NoError(t, os.Symlink(model, link))
	code, _, errs := try("convert", "--model", model, "--out", single)
	require.Zero(t, code, errs)
	code, _, errs = try("lora", "extract", "--base", single, "--tuned", single, "--out", single, "--overwrite")
	require.Equal(t, exitUsage, code, errs)
	require.NoError(t, os.WriteFile(adapter, []byte("x"), 0o666))
	vae := filepath.Join(model, "vae")
	weights := "diffusion_pytorch_model.safetensors"
	before := func() (all []string) {
		require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, _ error) error {
			st, err := e.Info()
			all = append(all, path+" "+st.ModTime().String())
			return err
		}))
		return all
	}
	there := before()
	for _, args := range [][]string{
		{"convert", "--model", model, "--out", filepath.Join(model, "unet")},
		{"convert", "--model", model, "--out", filepath.Join(link, "unet")},
		{"convert", "--model", model, "--out", filepath.Join(model, "new")},
		{"convert", "--model", link, "--out", filepath.Join(model, "unet", weights)},
		{"convert", "--model", model, "--out", filepath.Join(other, "vae")},
		{"convert", "--model", model, "--out", filepath.Join(other, "vae", weights)},
		{"convert", "--model", single, "--out", filepath.Join(other, "vae", "new")},
		{"convert", "--model", vae, "--out", model},
		{"convert", "--model", vae, "--out", other},
		{"convert", "--model", single, "--vae", vae, "--out", vae},
		{"convert", "--model", single, "--model-config", model, "--out", model},
		{"lora", "extract", "--base", model, "--tuned", single, "--out", single},
		{"lora", "merge", "--model", model, "--lora", adapter, "--out", adapter},
		{"lora", "convert", adapter, "--model", single, "--to", "peft", "--out", single},
	} {
		code, out, errs := try(append(args, "--overwrite")...)
		require.NotZero(t, code, args)
		require.Empty(t, out)
		require.Contains(t, errs, args[len(args)-1], args)
		require.Equal(t, there, before(), args)
	}
	for _, args := range [][]string{ // which are read whole before they are replaced
		{"convert", "--model", single, "--out", single, "--dtype", "bf16"},
		{"convert", "--model", model, "--out", model, "--dtype", "bf16"},
	} {
		code, _, errs := try(append(args, "--overwrite")...)
		require.Zero(t, code, errs)
	}
}
