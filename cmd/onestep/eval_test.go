package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/efficientnet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

// extractor writes random weights of the extractor where eval looks for them, and keeps caches out of the user's.
func extractor(t *testing.T) string {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	path := efficientnet.DefaultPath()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, metadata := torchtest.Golden(t, s, "../../models/efficientnet/testdata/golden.safetensors")
		g := torch.NewGenerator(s, 1)
		return torch.SaveSafetensors(path, torchtest.Drawn(t, metadata["layout"], func(name string, dims []int) *torch.Tensor {
			v := torch.Randn(s, g, torch.Float32, dims...)
			switch {
			case strings.HasSuffix(name, "running_var") || len(dims) == 1 && strings.HasSuffix(name, ".weight"):
				return torch.Ones(s, torch.Float32, dims...)
			case len(dims) == 4:
				return v.MulScalar(s, math.Sqrt(2/float64(dims[1]*dims[2]*dims[3])))
			}
			return v.MulScalar(s, 0.1)
		}), torch.SaveOptions{})
	}))
	return path
}

// colours writes n images of one colour each, with captions.
func colours(t *testing.T, dir string, n, side int) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for i := range n {
		img := image.NewNRGBA(image.Rect(0, 0, side, side))
		for k := range side * side {
			img.SetNRGBA(k%side, k/side, color.NRGBA{uint8(20 * i), uint8(255 - 15*i), uint8(37 * i % 256), 255})
		}
		path := filepath.Join(dir, fmt.Sprintf("%02d", i))
		require.NoError(t, vision.Write(path+".png", img, vision.WriteOptions{}))
		require.NoError(t, os.WriteFile(path+".txt", fmt.Appendf(nil, "colour %d", i), 0o644))
	}
	return dir
}

func evaluated(t *testing.T, args ...string) (got job.Evaluated, errs string) {
	t.Helper()
	code, out, errs := try(append([]string{"eval", "--json"}, args...)...)
	require.Zero(t, code, errs)
	require.NoError(t, json.Unmarshal([]byte(out), &got), out)
	return got, errs
}

// A directory that is the data itself is all copies, at a distance of 0; the features are cached, and a picture shows each image above itself.
func TestEvalImages(t *testing.T) {
	extractor(t)
	dir := t.TempDir()
	data, cache, nearest := colours(t, filepath.Join(dir, "data"), 12, 8), filepath.Join(dir, "cache"), filepath.Join(dir, "new", "nearest.png")
	got, _ := evaluated(t, "--images", data, "--data", data, "--cache", cache, "--nearest", nearest)
	require.Equal(t, "EffNetLite0", got.Features)
	require.Equal(t, "bicubic, antialiased, 224", got.Resize)
	require.Equal(t, [4]int{12, 12, 8, 8}, [4]int{got.Generated.A, got.Generated.B, got.Width, got.Height})
	require.Equal(t, [2]int{6, 6}, [2]int{got.Floor.A, got.Floor.B})
	require.InDelta(t, 0, got.Generated.Frechet, 1e-6*got.Floor.Frechet)
	require.Equal(t, 1.0, got.Copies.Closer)
	require.Equal(t, 1.0, got.Generated.Coverage)
	require.Nil(t, got.Agreement)

	img, err := vision.Read(nearest)
	require.NoError(t, err)
	require.Equal(t, image.Pt(8*10+2, 4*10+2), img.Bounds().Size()) // two rows of 8 images and their copies
	for x := range img.Bounds().Dx() {
		for y := 2; y < 10; y++ {
			require.Equal(t, img.At(x, y), img.At(x, y+10))
		}
	}
	files, err := filepath.Glob(filepath.Join(cache, "*.safetensors"))
	require.NoError(t, err)
	require.Len(t, files, 1)

	code, out, errs := try("eval", "--images", data, "--data", data, "--cache", cache, "--n", "7", "--quiet")
	require.Zero(t, code, errs)
	for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:12] {
		require.Contains(t, line, "EffNetLite0 (bicubic, antialiased, 224)")
		require.Contains(t, line, "7 generated, 12 real")
	}
	require.Contains(t, out, "FD-EffNetLite0")
	require.NotContains(t, out, "FID")

	code, _, errs = try("eval", "--images", data, "--data", data, "--cache", cache, "--nearest", nearest)
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "exists: choose another name or pass --overwrite")
}

// What can be known to fail does so before features are computed, and what fails after them takes nothing from the result.
func TestEvalLosesNothing(t *testing.T) {
	extractor(t)
	dir := t.TempDir()
	data, cache, file := colours(t, filepath.Join(dir, "data"), 12, 8), filepath.Join(dir, "cache"), filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	code, _, errs := try("eval", "--images", colours(t, filepath.Join(dir, "few"), 5, 8), "--data", data, "--cache", cache)
	require.Equal(t, exitFailure, code)
	require.Regexp(t, `^onestep: --images: want at least 6 images, as the 5 nearest neighbours are compared, .*few has 5\n$`, errs)
	require.NoDirExists(t, cache)
	code, _, errs = try("eval", "--images", data, "--data", data, "--cache", file)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--cache "+file+": a file; wanted a directory")

	nearest := filepath.Join(dir, "nearest.png")
	cmd := command(fmt.Sprintf("eval --json --images %s --data %s --cache %s --nearest %s", data, data, cache, nearest))
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -f 0 && exec "$0"`, os.Args[0]} // like a full disk
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	require.Error(t, cmd.Run())
	require.Equal(t, exitFailure, cmd.ProcessState.ExitCode(), said.String())
	require.Contains(t, said.String(), "the features of the data are not cached: ")
	require.Contains(t, said.String(), "onestep: --nearest: ")
	require.NoFileExists(t, nearest)
	var got job.Evaluated
	require.NoError(t, json.Unmarshal(out.Bytes(), &got), out.String())
	require.Equal(t, 12, got.Generated.B)
	require.Empty(t, got.Nearest)
}

// Data sets that are known by name are looked for in another directory, as in training.
func TestEvalDataDir(t *testing.T) {
	extractor(t)
	dir := t.TempDir()
	t.Setenv("XDG_DATA_DIRS", dir)
	images, data := colours(t, filepath.Join(dir, "images"), 12, 28), filepath.Join(dir, "sets")
	require.NoError(t, os.MkdirAll(filepath.Join(data, "fashion-mnist"), 0o777))
	header := []byte{0, 0, 8, 3, 0, 0, 0, 12, 0, 0, 0, 28, 0, 0, 0, 28} // IDX of 12 images of 28×28 pixels
	require.NoError(t, os.WriteFile(filepath.Join(data, "fashion-mnist", "train-images-idx3-ubyte"), append(header, make([]byte, 12*28*28)...), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(data, "fashion-mnist", "train-labels-idx1-ubyte"), append([]byte{0, 0, 8, 1, 0, 0, 0, 12}, make([]byte, 12)...), 0o666))
	got, _ := evaluated(t, "--images", images, "--data", "fashion-mnist", "--data-dir", data, "--no-cache", "--n", "6")
	require.Equal(t, 12, got.Generated.A)
	for _, bad := range [][]string{{"emoji", data, "--data-dir: only fashion-mnist"}, {"fashion-mnist", filepath.Join(dir, "none"), "none: no such directory; wanted a directory that holds fashion-mnist"}} {
		code, _, errs := try("eval", "--images", images, "--data", bad[0], "--data-dir", bad[1])
		require.NotZero(t, code)
		require.Contains(t, errs, bad[2])
	}
}

// Results of a model repeat.
func TestEvalModel(t *testing.T) {
	extractor(t)
	data := colours(t, filepath.Join(t.TempDir(), "data"), 12, 8)
	args := []string{"--model", "builtin", "--data", data, "--n", "6", "--no-cache", "--real", "12", "--steps", "2", "--seed", "5"}
	got, errs := evaluated(t, args...)
	require.Equal(t, [6]int{12, 6, 32, 32, 2, 2}, [6]int{got.Generated.A, got.Generated.B, got.Width, got.Height, got.Steps, got.Evaluations})
	require.Equal(t, "multistep", got.Sampler)
	require.Contains(t, errs, "the data have no classes")
	require.Contains(t, errs, "9 classes")
	require.Greater(t, got.Generated.Frechet, got.Floor.Frechet)
	again, _ := evaluated(t, args...)
	require.Equal(t, got, again)
}

// Stable Diffusion generates from the captions of the data, and their agreement is measured, also of images that went through its autoencoder.
func TestEvalDiffusion(t *testing.T) {
	extractor(t)
	data := colours(t, filepath.Join(t.TempDir(), "data"), 12, 40)
	got, _ := evaluated(t, "--model", "../../tests/testdata/sd/sd15", "--data", data, "--n", "6", "--no-cache", "--steps", "1")
	require.Equal(t, [2]int{12, 6}, [2]int{got.Generated.A, got.Generated.B})
	require.Equal(t, got.Width, got.Height)
	for _, a := range []*struct{ images, top1, top5 float64 }{
		{float64(got.Agreement.Images), got.Agreement.Top1, got.Agreement.Top5}, {float64(got.Bound.Images), got.Bound.Top1, got.Bound.Top5},
	} {
		require.Equal(t, 6.0, a.images)
		require.LessOrEqual(t, a.top1, a.top5)
	}
	require.InDelta(t, 1./12, got.Agreement.Chance1, 1e-12)
}

// Adapters change what is generated, and are in the result.
func TestEvalAdapters(t *testing.T) {
	extractor(t)
	data := colours(t, filepath.Join(t.TempDir(), "data"), 12, 40)
	model, dir := adapters(t, "sd15")
	args := []string{"--model", model, "--data", data, "--n", "6", "--no-cache", "--steps", "1"}
	bare, _ := evaluated(t, args...)
	one := filepath.Join(dir, "one.safetensors")
	with, _ := evaluated(t, append(args, "--lora", one)...)
	require.Equal(t, []string{one}, with.LoRAs)
	require.NotEqual(t, bare.Generated.Frechet, with.Generated.Frechet)
	zero, _ := evaluated(t, append(args, "--lora", one+"=0")...)
	require.Equal(t, bare.Generated, zero.Generated)
	for _, c := range [][]string{{"--images", data}, {"--model", "builtin"}} {
		code, _, errs := try(append([]string{"eval", "--data", data, "--lora", one}, c...)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "--lora")
		code, _, errs = try(append([]string{"eval", "--data", data, "--original-steps", "10"}, c...)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "--original-steps")
	}

	// A few-step adapter brings its grid of timesteps, unless another is given.
	f, err := lora.Open(one)
	require.NoError(t, err)
	defer f.Close()
	files, err := weights.Open(model, weights.Options{})
	require.NoError(t, err)
	defer files.Close()
	few := filepath.Join(dir, "few.safetensors")
	require.NoError(t, f.Write(few, files, lora.WriteOptions{Metadata: map[string]string{"onestep_original_inference_steps": "4"}}))
	args = []string{"--model", model, "--data", data, "--n", "6", "--no-cache", "--sampler", "lcm", "--steps", "3"}
	usual, notices := evaluated(t, append(args, "--lora", one)...)
	require.NotContains(t, notices, "grid")
	onGrid, notices := evaluated(t, append(args, "--lora", few)...)
	require.Contains(t, notices, "grid of 4")
	require.NotEqual(t, usual.Generated.Frechet, onGrid.Generated.Frechet)
	given, _ := evaluated(t, append(args, "--lora", one, "--original-steps", "4")...)
	require.Equal(t, onGrid.Generated, given.Generated)
	other, notices := evaluated(t, append(args, "--lora", few, "--original-steps", "50")...)
	require.Contains(t, notices, "grid of 50")
	require.Equal(t, usual.Generated, other.Generated)
	code, _, errs := try(append(append([]string{"eval"}, args[:len(args)-1]...), "5", "--lora", few)...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "distilled at 4 timesteps")

	// generate does, too, by a flag and by a tag.
	draw := func(more ...string) []byte {
		out := filepath.Join(t.TempDir(), "a.png")
		code, _, errs := try(append([]string{"generate", "--model", model, "--sampler", "lcm", "--steps", "3", "--seed", "1", "--out", out, "--prompt"}, more...)...)
		require.Zero(t, code, errs)
		require.Equal(t, !slices.Contains(more, "--original-steps"), strings.Contains(errs, "grid of 4"), errs)
		return pixelsOf(t, out)
	}
	want := draw("cat", "--lora", one, "--original-steps", "4")
	require.Equal(t, want, draw("cat", "--lora", few))
	require.Equal(t, want, draw("cat <lora:few:1>", "--lora-dir", dir))
}

func TestEvalRefuses(t *testing.T) {
	weights := extractor(t)
	dir := t.TempDir()
	data := colours(t, filepath.Join(dir, "data"), 12, 8)
	junk := filepath.Join(dir, "junk.safetensors")
	require.NoError(t, os.WriteFile(junk, []byte("no weights"), 0o644))
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "--model is missing"},
		{"--model builtin", 2, "--data is missing"},
		{"--model builtin --images DIR --data DIR", 2, "only one of them"},
		{"--model builtin --data DIR --n 5", 2, "at least 6"},
		{"--model builtin --data DIR --real 3", 2, "at least 12"},
		{"--model builtin --data DIR --resolution 8", 2, "--resolution"},
		{"--images DIR --data DIR --steps 2", 2, "--steps: with --images"},
		{"--images DIR --data DIR --guidance 2", 2, "--guidance: with --images"},
		{"--images DIR --data DIR --lora x", 2, "--lora: with --images"},
		{"--images DIR --data DIR --resize clean", 2, "--resize is for --features inception"},
		{"--model ../../tests/testdata/sd/sd15 --data emoji", 2, "want a directory of images with captions"},
		{"--images DIR --data DIR --nearest x.jpg", 2, "FILE.png"},
		{"--images DIR --data DIR --cache x --no-cache", 2, "--no-cache"},
		{"--images DIR --data nowhere", 1, "nowhere"},
		{"--images nowhere --data DIR", 1, "nowhere"},
		{"--model nowhere --data DIR", 1, "nowhere"},
		{"--images DIR --data DIR --features nowhere", 1, "--features"},
		{"--images DIR --data DIR --features JUNK", 1, "--features"},
	} {
		args := strings.Fields(strings.NewReplacer("DIR", data, "JUNK", junk).Replace(c.args))
		code, out, errs := try(append([]string{"eval"}, args...)...)
		require.Equal(t, c.code, code, "%s: %s", c.args, errs)
		require.Empty(t, out)
		require.Contains(t, errs, c.want)
	}
	require.NoError(t, os.Remove(weights))
	code, _, errs := try("eval", "--images", data, "--data", data)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "scripts/efficientnet_weights.py "+weights)
}

// A run with --eval-every records the distance beside the loss, keeps the best snapshot, and its directory stands for that.
func TestTrainEval(t *testing.T) {
	extractor(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	data, run := colours(t, filepath.Join(dir, "data"), 40, 8), filepath.Join(dir, "run") // two batches of features
	args := []string{"train", "--data", data, "--out", run, "--resolution", "8", "--steps", "2", "--batch", "2", "--channels", "8", "--mult", "1", "--blocks", "1", "--threads", "1"}
	code, _, errs := try(append(args, "--eval-n", "6")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--eval-every")
	code, out, errs := try(append(args, "--eval-every", "2", "--eval-n", "6", "--eval-steps", "2", "--json")...)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "fd_effnetlite0=")
	require.Contains(t, errs, "images=32/40", "the features of the real images can take minutes")
	var got trained
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, [2]any{filepath.Join(run, "best.safetensors"), 2}, [2]any{got.Best, got.BestStep})
	require.Positive(t, got.BestValue)
	for _, want := range []string{"FD-EffNetLite0", "bicubic, antialiased, 224", "6 images in 2 steps", "40 real images"} {
		require.Contains(t, got.BestOf, want)
	}
	code, out, errs = try("info", run)
	require.Zero(t, code, errs)
	for _, want := range []string{"best snapshot:", "fd_effnetlite0", "loss", "eval_n"} {
		require.Contains(t, out, want)
	}
	require.Regexp(t, `\n  fd_effnetlite0_real +[0-9.]+\n(.*\n)*  step {15,}2\n`, out, "values are in one column")
	code, _, errs = try("sample", "--model", run, "--out", filepath.Join(dir, "a.png"), "--n", "1")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "best.safetensors, of step 2")
	got2, errs := evaluated(t, "--model", run, "--data", data, "--n", "6", "--steps", "2")
	require.InEpsilon(t, got.BestValue, got2.Generated.Frechet, 1e-9)
	require.Contains(t, errs, "best snapshot")
}
