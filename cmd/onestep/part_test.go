package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is no whole model is named where one is wanted, with the flag that takes it.
func TestPartsInPlaceOfModels(t *testing.T) {
	const models = "../../tests/testdata/sd/"
	dir := t.TempDir()
	lone := filepath.Join(dir, "lone")
	require.NoError(t, os.CopyFS(filepath.Join(lone, "unet"), os.DirFS(models+"sd15/unet")))
	for path, want := range map[string][]string{
		models + "sd15/unet": {"U-Net of Stable Diffusion 1", "--unet " + models + "sd15/unet"},
		models + "sdxl/unet": {"U-Net of Stable Diffusion XL", "--unet"},
		lone:                 {"U-Net of Stable Diffusion 1", "--unet " + lone + "/unet"},
		models + "sd15/vae":  {"VAE", "--vae"},
		models + "sd15/vae/diffusion_pytorch_model.safetensors":                 {"VAE", "--vae"},
		models + "sd15/unet/diffusion_pytorch_model-00001-of-00003.safetensors": {"U-Net of Stable Diffusion 1", "--unet"},
		models + "sd15/text_encoder":                                            {"text encoder", "--text-encoder"},
		models + "sd15/text_encoder/model.safetensors":                          {"text encoder", "--text-encoder"},
		models + "controlnet":                                                   {"ControlNet", "--control-model", "--control-image"},
		models + "controlnet/diffusion_pytorch_model.safetensors":               {"ControlNet", "--control-model"},
		models + "taesd": {"TAESD", "--tiny-vae"},
		"../../tests/testdata/lora/full-kohya.safetensors":  {"LoRA", "--lora"},
		"../../tests/testdata/lora/loha-folder":             {"LoRA", "--lora"},
		"../../tests/testdata/embeddings/kohya.safetensors": {"textual inversion", "--embedding"},
	} {
		for _, command := range []string{"generate", "sample"} {
			args := []string{command, "--model", path, "--out", filepath.Join(dir, "no.png")}
			if command == "generate" {
				args = append(args, "--prompt", "x")
			}
			code, _, errs := try(args...)
			require.Equal(t, exitUsage, code, errs)
			for _, w := range append(want, path, "generate --model BASE") {
				require.Contains(t, errs, w, "%s %s", command, path)
			}
		}
	}
	for _, args := range [][]string{
		{"lora", "info", "../../tests/testdata/lora/full-kohya.safetensors", "--model", models + "sd15/unet"},
		{"lora", "extract", "--base", models + "sd15/unet", "--tuned", models + "sd15", "--out", filepath.Join(dir, "x.safetensors")},
		{"convert", "--model", models + "sd15/unet", "--out", filepath.Join(dir, "x.safetensors")},
	} {
		code, _, errs := try(args...)
		require.Equal(t, exitUsage, code, errs)
		require.Contains(t, errs, "U-Net of Stable Diffusion 1")
		require.Equal(t, args[0] == "convert", strings.Contains(errs, "--unet"), errs)
	}
	code, _, errs := try("generate", "--model", models+"sd15/scheduler", "--prompt", "x")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "model_index.json")
}
