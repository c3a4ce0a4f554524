package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
)

// The program of make demo, with one second of training: its pictures are there, and an earlier demo is kept.
func TestDemo(t *testing.T) {
	root := source(t)
	out := filepath.Join(t.TempDir(), "demo")
	require.NoError(t, os.Mkdir(out, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(out, "mine"), nil, 0o666))
	cmd := exec.Command("go", "run", "./scripts/demo", "-onestep", tool(t), "-out", out, "-for", "1s")
	cmd.Dir = root
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	require.Contains(t, string(printed), out)
	for name, least := range map[string]int{"before-after.png": 9 * 64, "builtin.png": 9 * 32, "a_smiling_cat.png": 64} {
		img, err := vision.Read(filepath.Join(out, name))
		require.NoError(t, err)
		require.GreaterOrEqual(t, img.Bounds().Dx(), least, name)
	}
	kept, err := filepath.Glob(out + "-*/mine")
	require.NoError(t, err)
	require.Len(t, kept, 1)
}
