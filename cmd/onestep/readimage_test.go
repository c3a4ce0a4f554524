package main

import (
	"encoding/json"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/vision"
)

// A1111 applies Clip skip to Stable Diffusion 1 alone; --clip-skip holds for every model.
func TestClipSkipOfOtherPrograms(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	const text = "cat\nSteps: 1, Sampler: Euler, CFG scale: 1, Seed: 5, Size: 64x64, Clip skip: 2, RNG: CPU"
	require.NoError(t, vision.Write(at("from.png"), slanted(64, 64), vision.WriteOptions{Texts: []vision.Text{{Keyword: vision.Parameters, Value: text}}}))
	for _, kind := range []string{"sd15", "sdxl", "sd2"} {
		require.NoError(t, tiny.Write(at(kind), kind))
		base := []string{"generate", "--model", at(kind), "--threads", "1", "--overwrite", "--out", at("out.png"), "--from", at("from.png")}
		code, _, errs := try(base...)
		require.Zero(t, code, errs)
		applied := kind == "sd15"
		require.Equal(t, !applied, strings.Contains(errs, "Clip skip 2"), errs)
		require.Equal(t, map[bool]float64{true: 1, false: 0}[applied], settingsOf(t, at("out.png"))["clip_skip"])
		code, _, errs = try(append(base, "--clip-skip", "1")...)
		require.Zero(t, code, errs)
		require.NotContains(t, errs, "Clip skip")
		require.Equal(t, 1.0, settingsOf(t, at("out.png"))["clip_skip"])
	}
}

// settingsOf returns the settings in an image's text; clip_skip is 0 where it is not there.
func settingsOf(t *testing.T, path string) map[string]any {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	texts, err := vision.ReadTexts(f)
	require.NoError(t, err)
	for _, x := range texts {
		if x.Keyword == "onestep" {
			out := map[string]any{"clip_skip": 0.0}
			require.NoError(t, json.Unmarshal([]byte(x.Value), &out))
			return out
		}
	}
	require.Fail(t, "no settings in "+path)
	return nil
}

// What other programs write is taken over, or refused by the program's name; it is never drawn as the prompt.
func TestFromOtherPrograms(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	draw := func(texts ...vision.Text) (int, string) {
		require.NoError(t, vision.Write(at("from.png"), slanted(64, 64), vision.WriteOptions{Texts: texts, Overwrite: true}))
		code, _, errs := try("generate", "--model", model, "--threads", "1", "--steps", "1", "--overwrite", "--out", at("out.png"), "--from", at("from.png"))
		return code, errs
	}
	for _, own := range []string{`{"prompt":"x","n":-1}`, `{"prompt":"x","tile":-64}`, `{"prompt":"x","index":-1}`} {
		code, errs := draw(vision.Text{Keyword: "onestep", Value: own})
		require.NotZero(t, code, own)
		require.Contains(t, errs, "want n, tile and index from 0 on", own)
	}
	for _, c := range []struct {
		text    string
		want    map[string]any
		notices []string
	}{
		{"a castle\nSteps: 3, CFG scale: 5.000000, Seed: 7, Size: 64x64, RNG: cuda, Sampler: euler_a, Version: stable-diffusion.cpp",
			map[string]any{"prompt": "a castle", "sampler": "euler_a", "seed": 7.0}, []string{"RNG: cuda"}},
		{"a castle\nSteps: 3, Sampler: euler_ancestral, CFG scale: 5, Seed: 7.0, Size: 64x64", map[string]any{"sampler": "euler_a", "seed": 7.0}, nil},
		{"a castle\nSteps: 3 | Sampler: DDIM | CFG scale: 5 | Seed: 7 | Size: 64x64", map[string]any{"prompt": "a castle", "sampler": "ddim"}, nil},
		{"a castle\nSteps: 3, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 5, Seed: 7, Size: 64x64", map[string]any{"sampler": "dpmpp_2m_karras"}, nil},
		{"a castle\nSteps: 3, Sampler: Euler, Schedule type: Simple, CFG scale: 5, Seed: -1, Size: 64x64", map[string]any{"sampler": "euler"}, []string{"Schedule type: Simple", "-1"}},
		{`{"prompt": "a castle", "steps": 3, "base_model": "x", "adm_guidance": "(1.5, 0.8, 0.3)", "resolution": "(64, 64)", "sampler": "euler", "seed": "7"}`,
			map[string]any{"prompt": "a castle", "seed": 7.0, "width": 64.0}, []string{"Fooocus", "adm_guidance"}},
		{"a castle\nfront: gate, left: oak, right: river", map[string]any{"prompt": "a castle\nfront: gate, left: oak, right: river"}, []string{"no settings"}},
	} {
		code, errs := draw(vision.Text{Keyword: vision.Parameters, Value: c.text})
		require.Zero(t, code, errs)
		got := settingsOf(t, at("out.png"))
		for k, want := range c.want {
			require.Equal(t, want, got[k], "%s of %s", k, c.text)
		}
		for _, n := range c.notices {
			require.Contains(t, errs, n)
		}
	}
	for want, text := range map[string]vision.Text{
		"ComfyUI": {Keyword: "prompt", Value: `{"3": {"inputs": {"seed": 7, "steps": 3}}}`}, "InvokeAI": {Keyword: "invokeai_metadata", Value: "{}"},
		"unknown format": {Keyword: vision.Parameters, Value: `{"words": "a castle"}`},
	} {
		code, errs := draw(text)
		require.NotZero(t, code)
		require.Contains(t, errs, want)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
}

// Transparent parts of an input image are put on white, as in training, and that is said.
func TestAlphaOfInputImages(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	clear := image.NewNRGBA(image.Rect(0, 0, 64, 64))
	for i := range clear.Pix {
		clear.Pix[i] = uint8(i * 7)
	}
	require.NoError(t, vision.Write(at("clear.png"), clear, vision.WriteOptions{}))
	require.NoError(t, vision.Write(at("white.png"), vision.OnWhite(clear), vision.WriteOptions{}))
	draw := func(from, out string) string {
		code, _, errs := try("generate", "--model", model, "--prompt", "x", "--seed", "1", "--steps", "2", "--threads", "1", "--init-image", at(from), "--out", at(out))
		require.Zero(t, code, errs)
		return errs
	}
	require.Contains(t, draw("clear.png", "a.png"), "transparent")
	require.NotContains(t, draw("white.png", "b.png"), "transparent")
	require.Equal(t, pixelsOf(t, at("b.png")), pixelsOf(t, at("a.png")))
}

// A JPEG has the settings, too, and can be repeated; WebP is refused.
func TestGenerateJPEG(t *testing.T) { generateAgain(t, ".jpg") }

// Likewise those of a WebP, which holds the pixels of the PNG.
func TestGenerateWebP(t *testing.T) {
	dir, model := generateAgain(t, ".webp")
	png := filepath.Join(dir, "a.png")
	code, _, errs := try("generate", "--model", model, "--from", filepath.Join(dir, "a.webp"), "--threads", "1", "--out", png)
	require.Zero(t, code, errs)
	pixels := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		img, err := vision.Decode(data)
		require.NoError(t, err)
		return vision.OnWhite(img).Pix
	}
	require.Equal(t, pixels(png), pixels(filepath.Join(dir, "a.webp")))
	require.Equal(t, settingsOf(t, png), settingsOf(t, filepath.Join(dir, "a.webp")))
	code, _, errs = try("generate", "--model", model, "--prompt", "x", "--out", filepath.Join(dir, "c.gif"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, ".webp")
	code, _, errs = try("sample", "--model", "builtin", "--out", filepath.Join(dir, "s.webp"), "--n", "2")
	require.Zero(t, code, errs)
	require.Equal(t, 2.0, settingsOf(t, filepath.Join(dir, "s.webp"))["n"])
}

// generateAgain generates an image into a file with that ending, and the same from its settings.
func generateAgain(t *testing.T, ext string) (dir, model string) {
	dir, model = tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, strings.Replace(name, ".jpg", ext, 1)) }
	code, _, errs := try("generate", "--model", model, "--prompt", "a テスト", "--seed", "1", "--steps", "2", "--threads", "1", "--out", at("a.jpg"))
	require.Zero(t, code, errs)
	require.Equal(t, "a テスト", settingsOf(t, at("a.jpg"))["prompt"])
	code, _, errs = try("generate", "--from", at("a.jpg"), "--threads", "1", "--out", at("b.jpg"))
	require.Zero(t, code, errs)
	a, err := os.ReadFile(at("a.jpg"))
	require.NoError(t, err)
	b, err := os.ReadFile(at("b.jpg"))
	require.NoError(t, err)
	require.Equal(t, a, b)
	code, out, errs := try("info", at("a.jpg"))
	require.Zero(t, code, errs)
	require.Contains(t, out, "テスト")
	return dir, model
}
