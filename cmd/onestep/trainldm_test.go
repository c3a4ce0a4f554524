package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

// train-ldm trains a model from scratch that generate and train-lcm take, resumes, and says what a run would be without starting it.
func TestTrainLDM(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 3)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prompts.txt"), []byte("a cat\n"), 0o644))
	run := func(args string) (int, string, string) {
		return try(strings.Fields(strings.ReplaceAll(args, "DIR", dir))...)
	}
	const command = "train-ldm --autoencoder DIR/sd15 --data DIR/photos --out DIR/run --channels 32,32 --zero-snr --batch 2 --steps 4 --save-every 2 --val-steps 2 " +
		"--val-prompts DIR/prompts.txt --cache DIR/cache --json"
	code, out, stderr := run(command + " --dry-run")
	require.Zero(t, code, stderr)
	var plan struct {
		Parameters, Images int
		Memory             float64
		Options            map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(out), &plan))
	require.Equal(t, 3, plan.Images)
	require.Greater(t, plan.Parameters, 100000)
	require.Greater(t, plan.Memory, 20*float64(plan.Parameters))
	require.NotContains(t, plan.Options, "model")
	require.NoDirExists(t, filepath.Join(dir, "run"))

	code, out, stderr = run(command)
	require.Zero(t, code, stderr)
	var got finetuned
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.True(t, got.Finished)
	require.Equal(t, filepath.Join(dir, "run", "model-0000004"), got.Snapshot)
	require.DirExists(t, got.Best)
	require.FileExists(t, filepath.Join(dir, "run", "samples-0000004.png"))
	code, _, stderr = run(command)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "--resume")
	code, _, stderr = run("train-ldm --out DIR/run --resume")
	require.Zero(t, code, stderr)

	code, _, stderr = run("generate --model DIR/run/model-0000004 --steps 2 --guidance 2 --seed 1 --prompt cat --out DIR/cat.png")
	require.Zero(t, code, stderr)
	code, _, stderr = run("train-lcm --lora --model DIR/run/model-0000004 --data DIR/photos --out DIR/lcm --rank 4 --batch 2 --steps 2 --lr 0.01 --cache DIR/cache --resolution 64")
	require.Zero(t, code, stderr)
	code, _, stderr = run("generate --model DIR/run/model-0000004 --lora DIR/lcm/model-0000002.safetensors --sampler lcm --steps 2 --seed 1 --prompt cat --out DIR/few.png")
	require.Zero(t, code, stderr)

	for args, want := range map[string][2]string{
		"train-ldm":                             {"2", "--autoencoder is required"},
		"train-ldm --autoencoder DIR/none":      {"1", "--autoencoder DIR/none"},
		"train-ldm --autoencoder DIR/sd15/unet": {"1", "--autoencoder"},
		"train-ldm --autoencoder DIR/sd15 --prediction epsilon --zero-snr": {"2", "--prediction v"},
		"train-ldm --autoencoder DIR/sd15 --channels 32":                   {"2", "--channels"},
		"train-ldm --autoencoder DIR/sd15 --batch 60000":                   {"3", "--batch"},
		"train-ldm --autoencoder DIR/sd15 --model DIR/sd15":                {"2", "--model"},
	} {
		if args != "train-ldm" {
			args += " --data DIR/photos --out DIR/r"
		}
		code, out, stderr := run(args)
		require.Equal(t, want[0], fmt.Sprint(code), "%s: %s", args, stderr)
		require.Empty(t, out)
		require.Contains(t, stderr, strings.ReplaceAll(want[1], "DIR", dir), args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		require.NoDirExists(t, filepath.Join(dir, "r"))
	}
}
