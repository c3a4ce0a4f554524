package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// Flags take the words of PyTorch, diffusers, A1111 and ComfyUI, and hold ours.
func TestOtherNames(t *testing.T) {
	var text string
	var scale *float64
	for _, c := range []struct {
		flag pflag.Value
		in   map[string]string
	}{
		{dtype{choice{&text, []string{"f32", "bf16", "f16"}}}, map[string]string{"fp16": "f16", "half": "f16", "float16": "f16", "torch.float16": "f16",
			"bfloat16": "bf16", "float32": "f32", "fp32": "f32", "bf16": "bf16"}},
		{sampler{&text}, map[string]string{"Euler a": "euler_a", "dpm++2m": "dpmpp_2m", "dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "DPM++ SDE Karras": "dpmpp_sde_karras"}},
		{spacing{&text}, map[string]string{"SGM Uniform": "trailing", "karras": "karras", "Exponential": "exponential"}},
		{guidance{&scale}, map[string]string{"0": "0", "0.0": "0", "1": "1", "7.5": "7.5"}},
	} {
		for in, want := range c.in {
			require.NoError(t, c.flag.Set(in), in)
			require.Equal(t, want, c.flag.String(), in)
		}
		for _, in := range []string{"", "x", "-1", "NaN"} {
			require.Error(t, c.flag.Set(in), in)
		}
	}
}

// A guidance of 0 draws what 1 does, and not what the default does.
func TestGuidanceOfZero(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name+".png") }
	for _, scale := range []string{"0", "1", "7.5"} {
		code, _, errs := try("generate", "--model", model, "--prompt", "x", "--seed", "1", "--steps", "2", "--threads", "1", "--sampler", "Euler a",
			"--guidance", scale, "--out", at(scale))
		require.Zero(t, code, errs)
	}
	require.Equal(t, pixelsOf(t, at("1")), pixelsOf(t, at("0")))
	code, text, errs := try("info", at("0"))
	require.Zero(t, code, errs)
	require.Contains(t, text, "CFG scale: 1,", "A1111 follows the negative prompt alone at 0")
	require.Regexp(t, `(?m)^ *guidance +0$`, text, "as it was given")
	code, text, errs = try("generate", "--from", at("0"), "--threads", "1", "--json", "--out", at("again"))
	require.Zero(t, code, errs)
	require.Contains(t, text, `"guidance":0,`)
	require.Contains(t, errs, "guidance 0 turns guidance off")
	first, err := os.ReadFile(at("0"))
	require.NoError(t, err)
	again, err := os.ReadFile(at("again"))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.NotEqual(t, pixelsOf(t, at("7.5")), pixelsOf(t, at("0")))
}
