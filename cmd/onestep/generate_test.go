package main

import (
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/vision"
)

// tinyModel writes a model to draw with.
func tinyModel(t *testing.T) (dir, model string) {
	t.Helper()
	dir = t.TempDir()
	model = filepath.Join(dir, "tiny")
	require.NoError(t, tiny.Write(model, "sd15"))
	return dir, model
}

func pixelsOf(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	m, err := png.Decode(f)
	require.NoError(t, err)
	b := m.Bounds()
	var out []byte
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA)
			out = append(out, c.R, c.G, c.B)
		}
	}
	return out
}

// Pictures say how they were drawn, and can be drawn again from that to the last byte; they do not depend on how many are drawn.
func TestGenerate(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	code, out, errs := try("generate", "--model", model, "--prompt", "a (red:1.3) cat", "--steps", "2", "--seed", "7", "--threads", "1", "--out", at("a.png"), "--json")
	require.Zero(t, code, errs)
	var got struct {
		Files       []string
		Kind        string
		Sampler     string
		Timesteps   []float64
		Evaluations int
		Width       int
	}
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, []string{at("a.png")}, got.Files)
	require.Equal(t, "sd15", got.Kind)
	require.Equal(t, "lcm", got.Sampler)
	require.Equal(t, []float64{999, 499}, got.Timesteps)
	require.Equal(t, 64, got.Width)

	code, out, errs = try("info", at("a.png"))
	require.Zero(t, code, errs)
	require.Contains(t, out, "  a (red:1.3) cat\n  Steps: 2, Sampler: LCM, CFG scale: 1, Seed: 7, Size: 64x64, Model: tiny, RNG: CPU")

	code, _, errs = try("generate", "--from", at("a.png"), "--threads", "1", "--out", at("again.png"))
	require.Zero(t, code, errs)
	a, err := os.ReadFile(at("a.png"))
	require.NoError(t, err)
	again, err := os.ReadFile(at("again.png"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(a, again), "repeated from its own text")

	code, _, errs = try("generate", "--from", at("a.png"), "--seed", "6", "--n", "2", "--threads", "1", "--out", at("two")+"/")
	require.Zero(t, code, errs)
	require.Equal(t, pixelsOf(t, at("a.png")), pixelsOf(t, at("two/00001.png")), "seed 7 as the second of two")
	require.NotEqual(t, pixelsOf(t, at("a.png")), pixelsOf(t, at("two/00000.png")))

	for name, flags := range map[string][]string{
		"prompt":   {"--prompt", "a dog"},
		"weight":   {"--prompt", "a (red:0.5) cat"},
		"steps":    {"--steps", "3"},
		"sampler":  {"--sampler", "euler", "--guidance", "3"},
		"size":     {"--width", "72"},
		"vary":     {"--variation-seed", "9", "--variation-strength", "0.5"},
		"half":     {"--dtype", "bf16"},
		"clipskip": {"--clip-skip", "2"}, // of three layers
	} {
		args := append([]string{"generate", "--from", at("a.png"), "--threads", "1", "--out", at(name + ".png")}, flags...)
		code, _, errs := try(args...)
		if name == "clipskip" {
			require.Equal(t, exitUsage, code)
			require.Contains(t, errs, "--clip-skip: want 0 to 1, got 2")
			continue
		}
		require.Zero(t, code, errs)
		require.NotEqual(t, pixelsOf(t, at("a.png")), pixelsOf(t, at(name+".png")), name)
	}
}

// Files that an image's settings name and that are not there are reported with the image, their paths and the flags to pass.
func TestGenerateFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	copied := func(from, to string) {
		t.Helper()
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), data, 0o666))
	}
	require.NoError(t, os.CopyFS(filepath.Join(dir, "model"), os.DirFS("../../tests/testdata/sd/sd15")))
	copied("../../tests/testdata/sd/init32.png", "in.png")
	copied("../../tests/testdata/lora/full-kohya.safetensors", "full.safetensors")
	copied("../../tests/testdata/embeddings/kohya.safetensors", "word.safetensors")
	t.Chdir(dir)
	code, _, errs := try("generate", "--model", "model", "--prompt", "a word", "--init-image", "in.png", "--lora", "full.safetensors", "--embedding", "word.safetensors",
		"--steps", "2", "--threads", "1", "--out", "a.png")
	require.Zero(t, code, errs)
	require.NoError(t, os.Mkdir("other", 0o777))
	t.Chdir("other")
	args := []string{"generate", "--from", "../a.png", "--threads", "1", "--out", "b.png"}
	for _, c := range [][2]string{{"--model", "model"}, {"--init-image", "in.png"}, {"--lora", "full.safetensors"}, {"--embedding", "word.safetensors"}} {
		code, _, errs := try(args...)
		require.Equal(t, 1, code)
		for _, want := range []string{"../a.png", c[0] + " " + c[1], "relative", "pass " + c[0]} {
			require.Contains(t, errs, want)
		}
		args = append(args, c[0], "../"+c[1])
	}
	code, _, errs = try(args...)
	require.Zero(t, code, errs)
	require.Equal(t, pixelsOf(t, "../a.png"), pixelsOf(t, "b.png"))
	code, _, errs = try("generate", "--from", "../a.png", "--model", "nothing")
	require.Equal(t, 1, code)
	require.NotContains(t, errs, "a.png", "what the command line gives is its own fault")
}

// An input image is a start; where a mask is black it stays what the autoencoder makes of it.
func TestGenerateFromPictures(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	picture, mask := image.NewNRGBA(image.Rect(0, 0, 64, 64)), image.NewGray(image.Rect(0, 0, 64, 64))
	for i := range 64 * 64 {
		picture.SetNRGBA(i%64, i/64, color.NRGBA{uint8(4 * (i % 64)), uint8(4 * (i / 64)), 99, 255})
		mask.SetGray(i%64, i/64, color.Gray{uint8(255 * (i % 64 / 32))})
	}
	require.NoError(t, vision.Write(at("p.png"), picture, vision.WriteOptions{}))
	require.NoError(t, vision.Write(at("m.png"), mask, vision.WriteOptions{}))
	draw := func(out string, flags ...string) string {
		if !slices.Contains(flags, "--prompt") {
			flags = append(flags, "--prompt", "x")
		}
		args := append([]string{"generate", "--model", model, "--seed", "1", "--threads", "1", "--out", at(out), "--init-image", at("p.png")}, flags...)
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
		return errs
	}
	draw("weak.png", "--strength", "0.25")
	draw("strong.png", "--strength", "1")
	require.NotEqual(t, pixelsOf(t, at("weak.png")), pixelsOf(t, at("strong.png")))
	draw("short.png", "--strength", "0.25", "--shorten")
	require.NotEqual(t, pixelsOf(t, at("weak.png")), pixelsOf(t, at("short.png")))
	draw("masked.png", "--mask", at("m.png"))
	draw("masked2.png", "--mask", at("m.png"), "--prompt", "y", "--guidance", "5")
	require.NotEqual(t, pixelsOf(t, at("masked.png")), pixelsOf(t, at("masked2.png")))
	require.Contains(t, draw("small.png", "--strength", "0.5", "--width", "32", "--height", "32"), "the input image is resized from 64×64 to 32×32 pixels")
}

// A single file gives the same picture as the folder it was made of, and so does the folder made of that.
func TestConvert(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	convert := func(args ...string) {
		code, _, errs := try(append([]string{"convert"}, args...)...)
		require.Zero(t, code, errs)
	}
	convert("--model", model, "--out", at("single.safetensors"))
	convert("--model", at("single.safetensors"), "--out", at("back"))
	convert("--model", model, "--out", at("half"), "--dtype", "f16")
	code, out, errs := try("info", at("half"))
	require.Zero(t, code, errs)
	require.Contains(t, out, "Stable Diffusion, sd15")
	require.Contains(t, out, " f16)")
	code, out, errs = try("info", at("single.safetensors"))
	require.Zero(t, code, errs)
	require.Contains(t, out, "Stable Diffusion, sd15")
	for name, from := range map[string]string{"a.png": model, "b.png": at("single.safetensors"), "c.png": at("back")} {
		code, _, errs := try("generate", "--model", from, "--prompt", "a cat", "--seed", "3", "--threads", "1", "--out", at(name))
		require.Zero(t, code, errs)
	}
	require.Equal(t, pixelsOf(t, at("a.png")), pixelsOf(t, at("b.png")))
	require.Equal(t, pixelsOf(t, at("a.png")), pixelsOf(t, at("c.png")))
	code, _, errs = try("convert", "--model", model, "--out", at("single.safetensors"))
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "exists: choose another name or pass --overwrite")
}

// What cannot be is refused in a line that says what to do; nothing is written.
func TestGenerateRefuses(t *testing.T) {
	dir, model := tinyModel(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "there.png"), []byte("mine"), 0o644))
	base := []string{"generate", "--model", model, "--prompt", "x", "--out", filepath.Join(dir, "no.png")}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--prompt is missing", []string{"generate", "--model", model}},
		{"want a multiple of 8 pixels, got 65: use 64 or 72", append(base, "--width", "65")},
		{"there is no sampler \"restart\": want one of ddim", append(base, "--sampler", "restart")},
		{"want one of karras", append(base, "--spacing", "kl_optimal")},
		{`--spacing: the sampler lcm uses the timesteps`, append(base, "--sampler", "lcm", "--spacing", "karras")},
		{`--spacing: the sampler ddim does not support the spacing "karras"`, append(base, "--sampler", "ddim", "--spacing", "karras")},
		{`the sampler lcm uses the timesteps`, append(base, "--spacing", "karras")}, // the model's own sampler
		{"--eta: needs --sampler tcd or ddim", append(base, "--sampler", "pndm", "--eta", "0.5")},
		{"51 steps", append(base, "--steps", "51", "--sampler", "lcm")},
		{"--strength, --shorten and --mask need --init-image", append(base, "--strength", "0.5")},
		{"there.png exists", append(base, "--out", filepath.Join(dir, "there.png"))},
		{"names several images the same", append(base, "--n", "2")},
		{"--eta: needs --sampler tcd or ddim", append(base, "--eta", "0.5")},
		{`"euler_karras_karras"`, append(base, "--sampler", "euler_karras_karras")},
		{"--variation-seed: needs --variation-strength", append(base, "--variation-seed", "3")},
		{"--variation-seed: needs --variation-strength", append(base, "--variation-seed", "0")},
		{"--eta: want a number, got", append(base, "--eta", "x")},
		{"got 1 model and 0 images", append(base, "--control-model", "x")},
		{"no such file", append(base, "--init-image", filepath.Join(dir, "none.png"))},
		{"want a PNG, JPEG, GIF, BMP or WebP file", append(base, "--init-image", filepath.Join(model, "model_index.json"))},
		{"pass --tiny-vae", append(base, "--preview", "p.png")},
		{"timesteps [1 2]", append(base, "--timesteps", "1,2", "--sampler", "lcm")},
		{`--guidance: want a number from 0 on, got "-1"`, append(base, "--guidance", "-1")},
		{`--guidance: want a number from 0 on, got "NaN"`, append(base, "--guidance", "NaN")},
		{`--guidance: want a number from 0 on, got "inf"`, append(base, "--guidance", "inf")},
		{"guidance: want a scale from 0 to 1000, got 1001", append(base, "--guidance", "1001")},
		{`--strength: want a number above 0, got "0"`, append(base, "--strength", "0", "--init-image", filepath.Join(dir, "there.png"))},
		{`--control-scale: want a number above 0, got "0"`, append(base, "--control-scale", "0")},
		{`--original-steps: want a whole number from 1 on, got "-5"`, append(base, "--original-steps", "-5")},
		{`--tile: want a whole number from 1 on, got "-1"`, append(base, "--tile", "-1")},
		{"--timesteps: want whole numbers with commas between them", append(base, "--timesteps", "x")},
		{"not a PNG, JPEG or WebP file", []string{"generate", "--from", filepath.Join(dir, "there.png")}},
		{"want only one of them", append(base, "--prompts", "x")},
	} {
		code, _, errs := try(c.args...)
		require.NotZero(t, code, c.want)
		if !strings.Contains(errs, c.want) {
			t.Errorf("%v\nwant %q\ngot %q", c.args, c.want, errs)
		}
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
	_, err := os.Stat(filepath.Join(dir, "no.png"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// What the documentation shows can be typed: every flag of every command line in it is known and takes its value.
func TestDocumentedCommands(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	lines := strings.ReplaceAll(string(readme), "\\\n", " ")
	for _, c := range (&app{}).root().Commands() {
		lines += "\n" + strings.ReplaceAll(c.Example, "  onestep", "  bin/onestep")
	}
	n := 0
	for line := range strings.SplitSeq(lines, "\n") {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "bin/onestep ")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, " #")
		cmd, args, err := (&app{}).root().Find(words(rest))
		require.NoError(t, err, line)
		require.NotEqual(t, "onestep", cmd.Name(), line)
		require.NoError(t, cmd.ParseFlags(args), line)
		n++
	}
	require.Greater(t, n, 15)
}

// words splits a command line as a shell does, as far as its quotes go.
func words(line string) (list []string) {
	word, quoted := "", false
	for _, r := range line + " " {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			if word != "" {
				list = append(list, word)
			}
			word = ""
		default:
			word += string(r)
		}
	}
	return list
}

// An empty negative text is one for SDXL if that is asked for; the picture says so.
func TestEmptyNegative(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.Write(at("sdxl"), "sdxl"))
	draw := func(out string, flags ...string) []byte {
		code, _, errs := try(append([]string{"generate", "--threads", "1", "--out", at(out)}, flags...)...)
		require.Zero(t, code, errs)
		return pixelsOf(t, at(out))
	}
	base := []string{"--model", at("sdxl"), "--prompt", "x", "--seed", "1", "--steps", "2", "--guidance", "5"}
	zeros := draw("a.png", base...)
	require.Equal(t, zeros, draw("b.png", append(base, "--negative", "")...), "a script's empty variable")
	empty := draw("c.png", append(base, "--empty-negative")...)
	require.NotEqual(t, zeros, empty)
	require.Equal(t, empty, draw("d.png", "--from", at("c.png")))
}
