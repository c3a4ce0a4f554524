package main

import (
	"encoding/json"
	"image"
	"image/color"
	"image/draw"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/torch/vision"
)

// editable is a directory with an image of the built-in model's size, a mask that is white on its right, a small image and a large one.
func editable(t *testing.T) (at func(name string) string) {
	t.Helper()
	dir := t.TempDir()
	at = func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, w, h int) {
		m := image.NewRGBA(image.Rect(0, 0, w, h))
		for i := range w * h {
			m.SetRGBA(i%w, i/w, color.RGBA{uint8(255 * (i % w) / w), uint8(255 * (i / w) / h), 90, 255})
		}
		require.NoError(t, vision.Write(at(name), m, vision.WriteOptions{}))
	}
	write("image.png", 32, 32)
	write("other.png", 32, 32)
	write("small.png", 8, 8)
	write("large.png", 70, 48)
	for name, size := range map[string]image.Point{"mask.png": {32, 32}, "wide.png": {70, 48}} {
		mask := image.NewGray(image.Rectangle{Max: size})
		draw.Draw(mask, image.Rect(size.X/2, 0, size.X, size.Y), image.White, image.Point{}, draw.Src)
		require.NoError(t, vision.Write(at(name), mask, vision.WriteOptions{}))
	}
	return at
}

func edited(t *testing.T, args ...string) (got job.Edited, errs string) {
	t.Helper()
	code, out, errs := try(append([]string{"edit", "--json", "--model", "builtin", "--threads", "1", "--label", "1"}, args...)...)
	require.Zero(t, code, errs)
	require.NoError(t, json.Unmarshal([]byte(out), &got), out)
	return got, errs
}

func read(t *testing.T, path string) image.Image {
	t.Helper()
	m, err := vision.Read(path)
	require.NoError(t, err)
	return m
}

// Every task writes its images and says what it did; what inpainting keeps is to the last bit in the file, beside its input in a grid too.
func TestEdit(t *testing.T) {
	at := editable(t)
	for _, c := range []struct {
		args        []string
		times       []float64
		evaluations int
		files       int
		notes       string // part of what is said; "": nothing is
	}{
		{[]string{"--task", "inpaint", "--image", at("image.png"), "--mask", at("mask.png"), "--steps", "2", "--out", at("inpaint.png")}, nil, 2, 1, ""},
		{[]string{"--task", "inpaint", "--image", at("large.png"), "--mask", at("wide.png"), "--steps", "1", "--out", at("cropped.png")}, []float64{80}, 1, 1, "70×48"},
		{[]string{"--task", "colorize", "--image", at("image.png"), "--times", "80,1", "--n", "3", "--out", at("colorize.png")}, []float64{80, 1}, 2, 1, "luminance"},
		{[]string{"--task", "superres", "--image", at("small.png"), "--steps", "2", "--out", at("superres.webp")}, nil, 2, 1, ""},
		{[]string{"--task", "superres", "--factor", "4", "--image", at("large.png"), "--steps", "1", "--out", at("reduced.png")}, nil, 1, 1, "8×8"},
		{[]string{"--task", "stroke", "--image", at("image.png"), "--n", "2", "--seed", "7", "--out", at("stroke") + "/"}, []float64{0.6725, 0.28}, 2, 2, ""},
		{[]string{"--task", "denoise", "--image", at("image.png"), "--sigma", "0.2", "--out", at("denoise.jpg")}, []float64{0.2}, 1, 1, ""},
		{[]string{"--task", "interpolate", "--seed2", "9", "--n", "3", "--out", at("frames") + "/"}, []float64{80}, 1, 3, ""},
		{[]string{"--task", "interpolate", "--image", at("image.png"), "--image2", at("other.png"), "--with-input", "--n", "2", "--out", at("between.png")}, nil, 2, 1, ""},
	} {
		got, errs := edited(t, c.args...)
		require.Equal(t, c.args[1], got.Task)
		require.Equal(t, c.evaluations, got.Evaluations, c.args)
		require.Len(t, got.Files, c.files)
		if c.times != nil {
			require.InDeltaSlice(t, c.times, got.Times, 1e-12)
		}
		if c.notes == "" {
			require.Empty(t, errs)
		}
		require.Contains(t, errs, c.notes)
		for _, f := range got.Files {
			code, out, errs := try("info", f)
			require.Zero(t, code, errs)
			require.Contains(t, out, c.args[1])
			require.Contains(t, out, "builtin")
		}
	}
	require.Equal(t, image.Pt(32, 32), read(t, at("inpaint.png")).Bounds().Size())
	require.FileExists(t, at("stroke/000008.png"))
	require.FileExists(t, at("frames/000002.png"))
	require.Equal(t, image.Pt(2*34+2, 2*34+2), read(t, at("between.png")).Bounds().Size()) // two input images and two results

	kept := func(path string, left image.Point) {
		want, got := read(t, at("image.png")), read(t, path)
		for i := range 16 * 32 {
			x, y := i%16, i/16
			require.Equal(t, color.RGBAModel.Convert(want.At(x, y)), color.RGBAModel.Convert(got.At(left.X+x, left.Y+y)))
		}
	}
	kept(at("inpaint.png"), image.Point{})
	edited(t, "--task", "inpaint", "--image", at("image.png"), "--mask", at("mask.png"), "--steps", "1", "--n", "2", "--with-input", "--columns", "3", "--out", at("grid.png"))
	require.Equal(t, image.Pt(3*34+2, 36), read(t, at("grid.png")).Bounds().Size())
	for i := range 3 {
		kept(at("grid.png"), image.Pt(2+34*i, 2))
	}
}

// An image's own settings make it again, and flags replace them; settings of other commands are refused with the command for them.
func TestEditFrom(t *testing.T) {
	at := editable(t)
	edited(t, "--task", "inpaint", "--image", at("image.png"), "--mask", at("mask.png"), "--times", "80,2", "--n", "2", "--seed", "5", "--out", at("a.png"))
	again := func(out string, args ...string) job.Edited {
		t.Helper()
		code, text, errs := try(append([]string{"edit", "--json", "--threads", "1", "--out", out}, args...)...)
		require.Zero(t, code, errs)
		var got job.Edited
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		return got
	}
	again(at("b.png"), "--from", at("a.png"))
	require.Equal(t, read(t, at("a.png")), read(t, at("b.png")))
	got := again(at("c.png"), "--from", at("a.png"), "--steps", "1", "--n", "1")
	require.Equal(t, []float64{80}, got.Times)
	got = again(at("d.png"), "--from", at("a.png"), "--task", "denoise", "--sigma", "0.3", "--n", "1") // without the mask
	require.Equal(t, []float64{0.3}, got.Times)
	edited(t, "--task", "interpolate", "--seed", "3", "--n", "3", "--out", at("e.png"))
	again(at("f.png"), "--from", at("e.png"))
	require.Equal(t, read(t, at("e.png")), read(t, at("f.png")))

	code, _, errs := try("sample", "--model", "builtin", "--threads", "1", "--out", at("sample.png"))
	require.Zero(t, code, errs)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"edit", "--from", at("sample.png")}, "onestep sample --model builtin"},
		{[]string{"edit", "--from", at("image.png")}, "no settings"},
		{[]string{"generate", "--from", at("a.png")}, "onestep edit --from " + at("a.png")},
	} {
		code, _, errs = try(append(c.args, "--out", at("x.png"))...)
		require.NotZero(t, code)
		require.Contains(t, errs, c.want)
	}
	require.NoError(t, os.Remove(at("mask.png")))
	code, _, errs = try("edit", "--from", at("a.png"), "--out", at("x.png"))
	require.NotZero(t, code)
	require.Contains(t, errs, "--mask")
	require.Contains(t, errs, at("a.png"))
}

// What cannot work is refused in one line that names the flag, before the model is loaded where that can be; inputs are never replaced.
func TestEditRefuses(t *testing.T) {
	at := editable(t)
	require.NoError(t, os.WriteFile(at("broken.png"), []byte("no image"), 0o644))
	before, err := os.ReadFile(at("image.png"))
	require.NoError(t, err)
	img, out := at("image.png"), at("out.png")
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"--task inpint --image I --out O", exitUsage, []string{"--task", "inpaint"}},
		{"--image I --out O", exitUsage, []string{"--task", "colorize"}},
		{"--task inpaint --image I --out O", exitUsage, []string{"--mask"}},
		{"--task stroke --out O", exitUsage, []string{"--image"}},
		{"--task stroke --image I", exitUsage, []string{"--out"}},
		{"--task inpaint --image I --mask S --out O", exitUsage, []string{"--mask", "32×32", "8×8"}},
		{"--task stroke --image I --mask M --out O", exitUsage, []string{"--mask", "inpaint"}},
		{"--task denoise --image I --out O", exitUsage, []string{"--sigma", "255"}},
		{"--task denoise --image I --sigma 0 --out O", exitUsage, []string{"--sigma"}},
		{"--task denoise --image I --sigma -1 --out O", exitUsage, []string{"--sigma"}},
		{"--task stroke --image I --sigma 90 --out O", exitUsage, []string{"--sigma", "80"}},
		{"--task superres --image I --out O", exitUsage, []string{"--factor", "2, 4, 8"}},
		{"--task superres --image I --factor 5 --out O", exitUsage, []string{"--factor", "5"}},
		{"--task stroke --image I --factor 4 --out O", exitUsage, []string{"--factor", "superres"}},
		{"--task interpolate --image I --out O", exitUsage, []string{"--image2"}},
		{"--task interpolate --n 1 --out O", exitUsage, []string{"--n", "2"}},
		{"--task interpolate --label 1,2 --out O", exitUsage, []string{"--label"}},
		{"--task stroke --image I --seed2 4 --out O", exitUsage, []string{"--seed2"}},
		{"--task stroke --image I --sampler ctm --out O", exitUsage, []string{"--sampler", "multistep"}},
		{"--task stroke --image I --sampler heun --out O", exitUsage, []string{"--sampler", "multistep"}},
		{"--task stroke --image nothing.png --out O", exitFailure, []string{"--image", "nothing.png"}},
		{"--task stroke --image B --out O", exitFailure, []string{"--image", "broken.png"}},
		{"--task stroke --image I --overwrite --out I", exitUsage, []string{"--out", "--image"}},
		{"--task inpaint --image I --mask M --overwrite --out M", exitUsage, []string{"--out", "--mask"}},
		{"--task stroke --image I --with-input --out D/", exitUsage, []string{"--with-input"}},
		{"--task interpolate --with-input --out O", exitUsage, []string{"--with-input", "no input image"}},
		{"--task stroke --image I --columns 2 --out O", exitUsage, []string{"--columns"}},
		{"--task stroke --image I --out S", exitFailure, []string{"--overwrite"}},
	} {
		args := []string{"edit", "--model", "builtin"}
		for word := range strings.FieldsSeq(c.args) {
			if path, ok := map[string]string{"I": img, "O": out, "M": at("mask.png"), "S": at("small.png"), "B": at("broken.png"), "D/": at("dir") + "/"}[word]; ok {
				word = path
			}
			args = append(args, word)
		}
		code, text, errs := try(args...)
		require.Equal(t, c.code, code, "%s: %s", c.args, errs)
		require.Empty(t, text)
		require.Equal(t, 1, strings.Count(strings.TrimSpace(errs), "\n")+1, errs)
		for _, want := range c.want {
			require.Contains(t, errs, want, c.args)
		}
		require.NoFileExists(t, out)
	}
	after, err := os.ReadFile(img)
	require.NoError(t, err)
	require.Equal(t, before, after)
	code, _, errs := try("edit", "--task", "stroke", "--image", img, "--out", out)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--model")
	code, _, errs = try("edit", "--model", "../../tests/testdata/sd/sd15", "--task", "stroke", "--image", img, "--out", out)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "onestep generate")
}

// What changes results or cannot be repeated is said: classes that none was chosen of, and paths that the settings cannot hold.
func TestEditNotices(t *testing.T) {
	at := editable(t)
	code, _, errs := try("edit", "--model", "builtin", "--threads", "1", "--task", "stroke", "--image", at("image.png"), "--out", at("a.png"))
	require.Zero(t, code)
	require.Contains(t, errs, "--label")
	odd := at("\xff.png")
	data, err := os.ReadFile(at("image.png"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(odd, data, 0o644))
	code, _, errs = try("edit", "--model", "builtin", "--threads", "1", "--label", "1", "--task", "stroke", "--image", odd, "--out", at("b.png"))
	require.Zero(t, code)
	require.Contains(t, errs, "not UTF-8")
}
