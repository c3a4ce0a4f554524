package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Options of adapters where there are none are said.
func TestGenerateSaysUnusedOptions(t *testing.T) {
	dir, model := tinyModel(t)
	base := []string{"generate", "--model", model, "--prompt", "x", "--steps", "1", "--guidance", "1", "--seed", "1", "--threads", "1", "--overwrite", "--out", filepath.Join(dir, "a.png")}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--lora-partial has no effect", []string{"--lora-partial"}},
		{"--lora-apply has no effect", []string{"--lora-apply", "merge"}},
		{"--lora-apply has no effect", []string{"--lora-apply", "merge", "--plain", "--lora-dir", dir}},
		{"--lora-dir has no effect", []string{"--plain", "--lora-dir", dir}},
		{"original steps (20) has no effect", []string{"--original-steps", "20", "--sampler", "euler"}},
		{"empty negative prompt has no effect", []string{"--empty-negative"}},
	} {
		code, _, errs := try(append(base, c.args...)...)
		require.Zero(t, code, errs)
		require.Contains(t, errs, c.want)
	}
	code, _, errs := try(append(base, "--lora-dir", dir)...)
	require.Zero(t, code, errs)
	require.NotContains(t, errs, "no effect")
	picture := "../../tests/testdata/sd/init32.png"
	code, _, errs = try(append(base, "--init-image", picture, "--shorten", "--sampler", "euler")...)
	require.NotZero(t, code)
	require.Contains(t, errs, "lcm and tcd")
}
