package main

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// slanted is a picture in colours that tell its corners apart.
func slanted(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		m.SetRGBA(i%w, i/w, color.RGBA{uint8(255 * (i % w) / w), uint8(255 * (i / w) / h), 99, 255})
	}
	return m
}

// A photograph is seen as it was taken, and of alpha nothing is seen; what is no picture, or no file, is told before the model is read.
func TestGenerateFromOddPictures(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	var lying bytes.Buffer
	require.NoError(t, jpeg.Encode(&lying, slanted(64, 48), &jpeg.Options{Quality: 100}))
	// EXIF says that it was taken with the camera turned to the left: it has to be turned to the right.
	exif := append([]byte("\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"), lying.Bytes()[2:]...)
	require.NoError(t, os.WriteFile(at("turned.jpg"), append([]byte{0xff, 0xd8}, exif...), 0o644))
	straight, err := jpeg.Decode(&lying)
	require.NoError(t, err)
	upright := image.NewRGBA(image.Rect(0, 0, 48, 64))
	for i := range 48 * 64 {
		x, y := i%48, i/48
		upright.Set(x, y, straight.At(y, 47-x))
	}
	f, err := os.Create(at("upright.png"))
	require.NoError(t, err)
	require.NoError(t, png.Encode(f, upright))
	require.NoError(t, f.Close())
	draw := func(name string) []byte {
		code, _, errs := try("generate", "--model", model, "--prompt", "x", "--seed", "1", "--threads", "1", "--init-image", at(name), "--strength", "0.5", "--out", at(name+".png"))
		require.Zero(t, code, errs)
		return pixelsOf(t, at(name+".png"))
	}
	want := draw("upright.png")
	require.Len(t, want, 3*48*64)
	got := draw("turned.jpg")
	require.Len(t, got, len(want))
	off := 0
	for i := range want {
		off = max(off, int(want[i])-int(got[i]), int(got[i])-int(want[i]))
	}
	require.Less(t, off, 16, "the decoders of chroma differ")

	require.NoError(t, unix.Mkfifo(at("pipe"), 0o600))
	whole, err := os.ReadFile(at("upright.png"))
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"empty": nil, "short.png": whole[:len(whole)/2],
		"bomb.png": append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\xff\x00\x00\x00\xff\x00\x08\x02\x00\x00\x00"), "\x8c\x8c\xb1\x9d"...),
	} {
		require.NoError(t, os.WriteFile(at(name), data, 0o644))
	}
	for _, flag := range []string{"--init-image", "--control-image"} {
		for name, want := range map[string]string{
			"pipe": "want a regular file", "/dev/zero": "want a regular file", ".": "is a directory; wanted an image",
			"none": "no such file", "empty": "it is empty: want a PNG", "short.png": "want a PNG, JPEG, GIF, BMP or WebP file", "bomb.png": "want a PNG",
		} {
			path := name
			if !filepath.IsAbs(name) {
				path = at(name)
			}
			args := []string{"generate", "--model", model, "--prompt", "x", flag, path, "--out", at("no.png")}
			if flag == "--control-image" {
				args = append(args, "--control-model", model)
			}
			code, _, errs := try(args...)
			require.NotZero(t, code)
			require.Contains(t, errs, flag)
			require.Contains(t, errs, want)
			require.Equal(t, 1, strings.Count(errs, "\n"), errs)
		}
	}
	code, _, errs := try("generate", "--from", at("pipe"))
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "want a regular file")
}

// A file of texts may be Windows' and may have empty lines; what is no text is told by its line.
func TestPromptsFile(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(text string) {
		require.NoError(t, os.WriteFile(at("texts"), []byte(text), 0o644))
	}
	write("\ufeffa cat\r\n\r\n  a dog\r\n")
	base := []string{"generate", "--model", model, "--steps", "1", "--seed", "1", "--threads", "1"}
	code, _, errs := try(append(base, "--prompts", at("texts"), "--out", at("texts-{n}.png"))...)
	require.Zero(t, code, errs)
	code, _, errs = try(append(base, "--prompt", "a cat", "--prompt", "a dog", "--out", at("flags-{n}.png"))...)
	require.Zero(t, code, errs)
	for _, n := range []string{"00000", "00001"} {
		a, err := os.ReadFile(at("texts-" + n + ".png"))
		require.NoError(t, err)
		b, err := os.ReadFile(at("flags-" + n + ".png"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b))
	}
	for text, want := range map[string]string{
		"": "it has no prompts", "\n \n": "it has no prompts", "a\n\nb\xffc\n": "line 3 is not UTF-8",
		"a\n" + strings.Repeat("x", 1<<20): "line 2 is longer than 1 MiB", "\xff\xfea\x00": "line 1 is not UTF-8",
		strings.Repeat("y\n", 1_000_001): "want at most 1000000 prompts",
	} {
		write(text)
		code, _, errs := try(append(base, "--prompts", at("texts"), "--out", at("no.png"))...)
		require.Equal(t, exitFailure, code)
		require.Contains(t, errs, want)
		require.Less(t, len(errs), 300)
	}
	code, _, errs = try(append(base, "--prompt", "a\xff", "--out", at("no.png"))...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "want valid UTF-8")
}

// Where nothing can be written, or what is wanted besides the model is not there, is told before the model is read.
func TestGenerateLooksAhead(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.WriteControlNet(at("control"), "sd15"))
	require.NoError(t, os.WriteFile(at("file"), nil, 0o644))
	require.NoError(t, os.WriteFile(at("there.png"), nil, 0o644))
	require.NoError(t, os.RemoveAll(filepath.Join(model, "unet", "diffusion_pytorch_model.safetensors"))) // whoever reads it fails
	base := []string{"generate", "--model", model, "--prompt", "x"}
	pair := []string{"--tiny-vae", at("file"), "--preview"}
	for _, c := range []struct {
		want  string
		flags []string
	}{
		{"--out: the directory " + dir + "/none/.. does not exist", []string{"--out", dir + "/none/../x.png"}},
		{"--out: " + at("file") + " is not a directory", []string{"--out", at("file") + "/x.png"}},
		{"--out: " + at("file") + " is not a directory", []string{"--out", at("file") + "/"}},
		{"--out: cannot write to the directory /proc", []string{"--out", "/proc/x.png"}},
		{"--out: cannot write to the directory /proc", []string{"--out", "/proc/a/b/"}},
		{"--preview: the directory " + dir + "/none/.. does not exist", append(pair, dir+"/none/../x.png", "--out", at("x.png"))},
		{"there.png exists", append(pair, at("there.png"), "--out", at("x.png"))},
		{"is also the name of an output image", append(pair, at("x.png"), "--out", at("./x.png"))},
		{"--vae " + at("none") + ": no such file", []string{"--vae", at("none"), "--out", at("x.png")}},
		{"--tiny-vae " + at("none") + ": no such file", []string{"--tiny-vae", at("none"), "--out", at("x.png")}},
		{"--model-config " + at("none") + ": no such directory", []string{"--model-config", at("none"), "--out", at("x.png")}},
	} {
		code, _, errs := try(append(base, c.flags...)...)
		require.NotZero(t, code, c.want)
		if !strings.Contains(errs, c.want) {
			t.Errorf("%v\nwant %q\ngot %q", c.flags, c.want, errs)
		}
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
	left, err := filepath.Glob(at(".onestep-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// Of A1111's texts what can be repeated is, and what cannot is named.
func TestFromA1111(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(text string) string {
		require.NoError(t, vision.Write(at("from.png"), slanted(64, 64), vision.WriteOptions{Texts: []vision.Text{{Keyword: "parameters", Value: text}}, Overwrite: true}))
		return at("from.png")
	}
	draw := func(text string, flags ...string) (code int, errs string) {
		args := append([]string{"generate", "--from", write(text), "--model", model, "--threads", "1", "--overwrite", "--out", at("out.png")}, flags...)
		code, _, errs = try(args...)
		return code, errs
	}
	const hires = "a \"red\" cat: in a hat,\n(two:1.2) lines\nNegative prompt: blurry, old: bad\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, " +
		"Seed: 12345, Size: 64x64, Model hash: abc, Model: v1-5, Denoising strength: 0.7, Clip skip: 2, Lora hashes: \"foo: 12, bar: 34\", Hires upscale: 2, " +
		"Hires upscaler: \"Latent (nearest-exact)\", RNG: NV, Version: v1.10.1"
	code, errs := draw(hires)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "not applied: Hires upscale: 2, Hires upscaler: Latent (nearest-exact), RNG: NV")
	require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	again := pixelsOf(t, at("out.png"))
	code, _, errs = try("generate", "--model", model, "--prompt", "a \"red\" cat: in a hat,\n(two:1.2) lines", "--negative", "blurry, old: bad", "--steps", "2",
		"--sampler", "dpmpp_2m_karras", "--guidance", "3", "--seed", "12345", "--clip-skip", "1", "--threads", "1", "--out", at("same.png"))
	require.Zero(t, code, errs)
	require.Equal(t, pixelsOf(t, at("same.png")), again)

	code, errs = draw("cat\nSteps: 1, Sampler: LCM, Schedule type: Automatic, CFG scale: 1, Seed: 5, Size: 64x64, RNG: CPU, Version: 1")
	require.Zero(t, code, errs)
	require.Empty(t, errs)
	code, errs = draw("only words", "--steps", "1")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "the image's metadata has no settings")
	code, errs = draw("cat\nSteps: 1, Sampler: LCM, CFG scale: 0, Seed: 5, Size: 64x64") // none
	require.Zero(t, code, errs)
	for text, want := range map[string]string{
		"cat\nSteps: 4, Sampler: Euler, CFG scale: 2, Denoising strength: 0.5": "it was generated from an input image",
		"cat\nSteps: 4, Sampler: Restart, CFG scale: 2":                        `the sampler "Restart" is not supported`,
		"cat\nSteps: x, Sampler: Euler, Seed: -1, Size: 64":                    "Steps: want a whole number",
	} {
		code, errs := draw(text)
		require.NotZero(t, code, text)
		require.Contains(t, errs, want)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
	code, errs = draw("cat\nSteps: 2, Sampler: LCM, CFG scale: 1, Denoising strength: 0.5, Seed: 1", "--init-image", at("from.png"))
	require.Zero(t, code, errs)
}

// A scheduler that cannot work is told before the weights are looked at, also where the sampler and its steps are the model's own.
func TestSchedulerBeforeWeights(t *testing.T) {
	dir, model := tinyModel(t)
	weights := filepath.Join(model, "vae", "diffusion_pytorch_model.safetensors")
	rewrite(t, weights, weights, func(_ *torch.Scope, all map[string]*torch.Tensor) { delete(all, "decoder.conv_out.bias") })
	scheduler := filepath.Join(model, "scheduler", "scheduler_config.json")
	for _, c := range []struct {
		config, want string
		flags        []string
	}{
		{`{"_class_name": "DDIMScheduler"}`, "want 1 to 1000 steps, got 1001", []string{"--steps", "1001"}},
		{`{"_class_name": "DDIMScheduler", "num_train_timesteps": 20}`, "want 1 to 20 steps, got 25", nil},
		{`{"_class_name": "LCMScheduler", "original_inference_steps": 3}`, "4 steps", []string{"--steps", "4"}},
		{`{"_class_name": "DDIMScheduler", "beta_schedule": "none"}`, "beta_schedule", nil},
		{`{"_class_name": "DDIMScheduler"}`, "1 missing: decoder.conv_out.bias", nil}, // this one works
	} {
		require.NoError(t, os.WriteFile(scheduler, []byte(c.config), 0o644))
		code, _, errs := try(append([]string{"generate", "--model", model, "--prompt", "x", "--out", filepath.Join(dir, "x.png")}, c.flags...)...)
		wantCode := exitFailure
		if c.flags != nil {
			wantCode = exitUsage
		}
		require.Equal(t, wantCode, code)
		require.Contains(t, errs, c.want)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
}
