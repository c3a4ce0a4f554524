package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

// A U-Net beside a base model draws what the model that convert makes of both draws; the PNG records it with its hash, and repeats to the byte.
func TestGenerateWithUNet(t *testing.T) {
	dir, base := tinyModel(t)
	require.NoError(t, tiny.Write(filepath.Join(dir, "lcm"), "lcm15"))
	require.NoError(t, tiny.Write(filepath.Join(dir, "xl"), "sdxl"))
	net := filepath.Join(dir, "lcm", "unet")
	out := func(name string) string { return filepath.Join(dir, name) }
	draw := func(name string, args ...string) ([]byte, string) {
		t.Helper()
		args = append([]string{"generate", "--steps", "2", "--seed", "3", "--threads", "1", "--prompt", "a cat", "--out", out(name)}, args...)
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
		return pixelsOf(t, out(name)), errs
	}
	bare, _ := draw("bare.png", "--model", base)
	got, errs := draw("unet.png", "--model", base, "--unet", net)
	require.NotEqual(t, bare, got)
	require.Contains(t, errs, "latent consistency model")

	for _, to := range []string{"baked", "baked.safetensors"} {
		code, _, errs := try("convert", "--model", base, "--unet", net, "--out", out(to))
		require.Zero(t, code, errs)
		args := []string{"--model", out(to)}
		baked, _ := draw(to+".png", args...)
		require.Equal(t, got, baked, to)
	}

	code, text, errs := try("info", out("unet.png"))
	require.Zero(t, code, errs)
	require.Contains(t, text, "UNet: lcm/unet")
	hash, err := hashOf(net)
	require.NoError(t, err)
	require.Contains(t, text, "UNet hash: "+hash)
	code, _, errs = try("generate", "--from", out("unet.png"), "--threads", "1", "--out", out("again.png"))
	require.Zero(t, code, errs)
	want, err := os.ReadFile(out("unet.png"))
	require.NoError(t, err)
	again, err := os.ReadFile(out("again.png"))
	require.NoError(t, err)
	require.Equal(t, want, again)
	code, _, errs = try("generate", "--from", out("unet.png"), "--unet", base, "--threads", "1", "--out", out("other.png"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, hash, "made with another")
	code, _, errs = try("generate", "--from", out("unet.png"), "--unet", "", "--threads", "1", "--out", out("none.png"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, hash, "made with another")
	code, _, errs = try("generate", "--from", out("unet.png"), "--mask", "", "--threads", "1", "--out", out("nothing.png"))
	require.Equal(t, exitUsage, code, "the image has none")
	require.Contains(t, errs, "--mask: want FILE, got an empty name")
	require.Equal(t, bare, func() []byte { p, _ := draw("own.png", "--model", base, "--unet", base); return p }())

	for _, c := range [][]string{
		{"--unet", out("xl/unet")}, {"--unet", out("missing")}, {"--text-encoder", net}, {"--text-encoder-2", base},
	} {
		code, _, errs := try(append([]string{"generate", "--model", base, "--prompt", "x", "--out", out("refused.png")}, c...)...)
		require.NotZero(t, code, c)
		require.Contains(t, errs, filepath.Base(c[1]))
		require.NoFileExists(t, out("refused.png"))
	}
}

// hashOf is the start of the SHA-256 of the weights in a part's directory.
func hashOf(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "diffusion_pytorch_model.safetensors"))
	return fmt.Sprintf("%x", sha256.Sum256(data))[:12], err
}

// U-Nets of few-step models say by their names which sampler they want.
func TestUNetsOfFewSteps(t *testing.T) {
	dir, base := tinyModel(t)
	net := filepath.Join(dir, "sdxl_lightning_4step_unet.safetensors")
	require.NoError(t, os.Link(filepath.Join(base, "unet", "diffusion_pytorch_model.safetensors"), net))
	for sampler, remarks := range map[string]bool{"euler": true, "euler_trailing": false} {
		code, _, errs := try("generate", "--model", base, "--unet", net, "--prompt", "x", "--steps", "1", "--sampler", sampler, "--out", filepath.Join(dir, sampler+".png"))
		require.Zero(t, code, errs)
		require.Equal(t, remarks, strings.Contains(errs, "--spacing trailing"), errs)
	}
}
