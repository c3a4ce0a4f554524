package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever writes a file sweeps its folder of what killed processes left there half written, and leaves everything else.
func TestLeftOversAreSwept(t *testing.T) {
	dir, model := tinyModel(t)
	dead := ".onestep-ABCDEFGHIJKLMNOPQRSTUVWXYZ.tmp"
	run := filepath.Join(dir, "run")
	train := "train --data emoji --method ict --resolution 8 --channels 8 --mult 1 --batch 2 --threads 1 --steps 2 --widths 0.05,0.1 --save-every 1 --out " + run
	code, _, errs := try(strings.Fields(train)...)
	require.Zero(t, code, errs)
	for i, line := range []string{
		"generate --model " + model + " --prompt cat --steps 1 --width 64 --height 64 --out DIR/a.png",
		"generate --model " + model + " --prompt cat --steps 1 --width 64 --height 64 --out DIR/",
		"sample --model builtin --out DIR/a.png",
		"sample --model builtin --n 2 --out DIR/",
		"inspect --model builtin --out DIR/a.png",
		"convert --model " + model + " --out DIR/a.safetensors",
		"convert --model " + model + " --out DIR/folder",
		"average " + run + " --width 0.07 --out DIR/a.safetensors",
	} {
		at := filepath.Join(dir, string(rune('a'+i)))
		require.NoError(t, os.MkdirAll(filepath.Join(at, dead, "unet"), 0o777)) // a folder that convert was writing
		other := strings.Replace(dead, "ABC", "CBA", 1)
		require.NoError(t, os.WriteFile(filepath.Join(at, other), []byte("half"), 0o666))
		require.NoError(t, os.WriteFile(filepath.Join(at, ".onestep-mine.png"), nil, 0o666))
		code, _, errs := try(strings.Fields(strings.ReplaceAll(line, "DIR", at))...)
		require.Zero(t, code, "%s: %s", line, errs)
		require.NoDirExists(t, filepath.Join(at, dead), line)
		require.NoFileExists(t, filepath.Join(at, other), line)
		require.FileExists(t, filepath.Join(at, ".onestep-mine.png"), line)
	}
}
