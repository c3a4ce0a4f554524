package main

import (
	"bytes"
	"image"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// pipe makes a named pipe to which nobody writes, in a file's place.
func pipe(t *testing.T, path string) string {
	_ = os.Remove(path)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, unix.Mkfifo(path, 0o600))
	return path
}

// A named pipe or a device in the place of any file is refused by its name, and nobody waits for the other end or reads without end: a
// command that fails here hangs.
func TestPipesAndDevices(t *testing.T) {
	dir, model := tinyModel(t)
	fifo := pipe(t, filepath.Join(dir, "pipe"))
	fifoTensors := pipe(t, filepath.Join(dir, "pipe.safetensors"))
	plain := filepath.Join(dir, "plain.png")
	f, err := os.Create(plain)
	require.NoError(t, err)
	require.NoError(t, png.Encode(f, image.NewGray(image.Rect(0, 0, 64, 64))))
	require.NoError(t, f.Close())
	out := filepath.Join(dir, "out.png")
	generate := func(args ...string) []string {
		return append([]string{"generate", "--model", model, "--prompt", "x", "--steps", "1", "--out", out}, args...)
	}
	train := func(args ...string) []string {
		return append([]string{"train", "--method", "ct", "--data", "emoji", "--steps", "1", "--batch", "2", "--resolution", "8", "--out", filepath.Join(dir, "run")}, args...)
	}
	for _, at := range []string{fifo, "/dev/zero"} {
		for _, args := range [][]string{
			{"info", at}, {"lora", "info", at}, {"lora", "info", plain, "--model", at}, {"convert", "--model", at, "--out", filepath.Join(dir, "o.safetensors")},
			{"sample", "--model", at, "--out", out}, {"generate", "--model", at, "--prompt", "x", "--out", out},
			{"lora", "merge", "--model", model, "--lora", at, "--out", filepath.Join(dir, "o.safetensors")},
			{"lora", "convert", "--lora", at, "--to", "kohya", "--out", filepath.Join(dir, "o.safetensors")},
			{"lora", "extract", "--base", model, "--tuned", at, "--out", filepath.Join(dir, "o.safetensors")},
			{"inspect", "--model", at, "--out", out}, {"average", at, "--out", filepath.Join(dir, "o.safetensors")},
			generate("--lora", at), generate("--embedding", at), generate("--unet", at), generate("--text-encoder", at), generate("--vae", at),
			generate("--tiny-vae", at), generate("--init-image", at), generate("--init-image", plain, "--mask", at), generate("--from", at),
			generate("--control-model", at, "--control-image", plain), generate("--model-config", at),
			train("--data", at), train("--config", at), train("--init", at), train("--teacher", at, "--method", "cd"), train("--distance", "lpips", "--lpips", at),
		} {
			code, _, stderr := try(args...)
			require.NotZero(t, code, "%q", args)
			require.NotEmpty(t, stderr, "%q", args)
			require.NotContains(t, stderr, "panic", "%q", args)
		}
	}
	for _, args := range [][]string{{"info", fifoTensors}, generate("--lora", fifoTensors), train("--init", fifoTensors), {"sample", "--model", fifoTensors, "--out", out}} {
		code, _, stderr := try(args...)
		require.NotZero(t, code, "%q", args)
		require.Contains(t, stderr, "pipe.safetensors", "%q", args)
	}
	// Prompts may come through a pipe, as from a shell's <(command). This one is empty.
	code, _, stderr := try("generate", "--model", model, "--prompts", fifo, "--out", out)
	require.NotZero(t, code)
	require.Contains(t, stderr, filepath.Base(fifo))
	code, _, stderr = try("generate", "--model", model, "--prompts", "/dev/zero", "--out", out)
	require.NotZero(t, code)
	require.Contains(t, stderr, "device")
}

// The same for every file of a model's folder, of an adapter's, and of a run's.
func TestPipesInFolders(t *testing.T) {
	dir, model := tinyModel(t)
	out := filepath.Join(dir, "out.png")
	var files []string
	require.NoError(t, filepath.WalkDir(model, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	for _, path := range files {
		kept, err := os.ReadFile(path)
		require.NoError(t, err)
		pipe(t, path)
		for _, args := range [][]string{{"info", model}, {"generate", "--model", model, "--prompt", "x", "--steps", "1", "--width", "64", "--height", "64", "--out", out}} {
			code, _, stderr := try(args...)
			if args[0] == "generate" && filepath.Base(path) != "special_tokens_map.json" { // not read where tokenizer_config.json says the same
				require.NotZero(t, code, "%s: %q", path, args)
				require.Contains(t, stderr, filepath.Base(path), "%q", args)
			}
			_ = os.Remove(out)
		}
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.WriteFile(path, kept, 0o644))
	}

	adapter := filepath.Join(dir, "adapter")
	require.NoError(t, os.Mkdir(adapter, 0o755))
	pair := func(name string, shape ...int) safetensors.Source {
		return safetensors.Source{Name: name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, 4*shape[0]*shape[1]))}
	}
	require.NoError(t, safetensors.Write(filepath.Join(adapter, "adapter_model.safetensors"), []safetensors.Source{
		pair("base_model.model.x.lora_A.weight", 1, 2), pair("base_model.model.x.lora_B.weight", 2, 1)}, safetensors.Options{}))
	pipe(t, filepath.Join(adapter, "adapter_config.json"))
	_, _, stderr := try("lora", "info", adapter)
	require.Contains(t, stderr, "adapter_config.json")

	run := filepath.Join(dir, "run")
	train := []string{"train", "--method", "ct", "--data", "emoji", "--steps", "2", "--batch", "2", "--resolution", "8", "--out", run}
	code, _, stderr := try(train...)
	require.Zero(t, code, stderr)
	entries, err := os.ReadDir(run)
	require.NoError(t, err)
	for _, e := range entries {
		path := filepath.Join(run, e.Name())
		if !e.Type().IsRegular() {
			continue
		}
		kept, err := os.ReadFile(path)
		require.NoError(t, err)
		pipe(t, path)
		for _, args := range [][]string{{"info", run}, slices.Concat(train, []string{"--resume"}), {"sample", "--model", run, "--out", out}} {
			_, _, stderr := try(args...) // for some files nothing is wrong with them
			require.NotContains(t, stderr, "panic", "%q", args)
			_ = os.Remove(out)
		}
		_ = os.RemoveAll(path)
		require.NoError(t, os.WriteFile(path, kept, 0o644))
	}
}

// What cannot be printed is a failure, of the help as of any result.
func TestFullOutput(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help", "generate"}, {"train", "--help"}, {"--version"}, {"version"}, {"info", "--help"}} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		var stderr bytes.Buffer
		require.Equal(t, exitFailure, run(t.Context(), args, full, &stderr), args)
		require.Contains(t, stderr.String(), "no space left", args)
		require.Equal(t, 1, strings.Count(stderr.String(), "\n"), args)
		require.NoError(t, full.Close())
	}
}

// A name that cannot be written is found before the work.
func TestOutputIsLookedAtFirst(t *testing.T) {
	dir, model := tinyModel(t)
	fifo := pipe(t, filepath.Join(dir, "pipe.png"))
	read := filepath.Join(dir, "read.png")
	require.NoError(t, os.WriteFile(read, nil, 0o444))
	tensors := pipe(t, filepath.Join(dir, "pipe.safetensors"))
	for _, args := range [][]string{
		{"sample", "--model", "builtin", "--out"},
		{"inspect", "--model", "builtin", "--out"},
		{"generate", "--model", model, "--prompt", "x", "--out"},
	} {
		for _, out := range []string{dir + "/none/../x.png", fifo, read} {
			var stderr bytes.Buffer
			require.Equal(t, exitFailure, run(t.Context(), append(args, out, "--overwrite"), &bytes.Buffer{}, &stderr), args)
			require.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr.String())
			require.NotContains(t, stderr.String(), "%", "nothing has been drawn yet")
			require.NoFileExists(t, filepath.Join(dir, "x.png"))
		}
	}
	for _, out := range []string{dir + "/none/../x.safetensors", tensors} {
		require.ErrorContains(t, job.Writable(out), filepath.Base(filepath.Dir(out)))
	}
	require.NoError(t, job.Writable(filepath.Join(dir, "x.png")))
	require.NoError(t, job.Writable("x.png"))
}
