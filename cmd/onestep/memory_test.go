package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Work that cannot fit into memory is refused before it starts, with an exit code of its own and both numbers, and leaves nothing.
func TestMemory(t *testing.T) {
	dir, model := tinyModel(t)
	for _, line := range []string{
		"generate --model " + model + " --prompt cat --width 16384 --height 16384 --out DIR/a.png",
		"sample --model builtin --n 1000000 --batch 1048576 --out DIR/s/",
		"train --data emoji --out DIR/r --batch 1048576",
		"train --data emoji --out DIR/r --batch 1048576 --resolution 1024",
	} {
		code, _, errs := try(strings.Fields(strings.ReplaceAll(line, "DIR", dir))...)
		require.Equal(t, exitMemory, code, errs)
		require.Equal(t, 2, strings.Count(errs, "iB"), errs)
		require.Contains(t, errs, "--force", errs)
	}
	for _, name := range []string{"a.png", "s", "r"} {
		require.NoFileExists(t, filepath.Join(dir, name))
		require.NoDirExists(t, filepath.Join(dir, name))
	}
	code, _, errs := try("generate", "--model", model, "--prompt", "cat", "--steps", "1", "--force", "--threads", "4000", "--out", filepath.Join(dir, "b.png"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "4000")
}
