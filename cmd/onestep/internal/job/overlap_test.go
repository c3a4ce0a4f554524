package job

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A run's own files are not replaced by what is made of them; beside them there is room.
func TestNotOf(t *testing.T) {
	dir := t.TempDir()
	run, link := filepath.Join(dir, "run"), filepath.Join(dir, "link")
	require.NoError(t, os.Mkdir(run, 0o777))
	require.NoError(t, os.Symlink(run, link))
	require.NoError(t, os.WriteFile(filepath.Join(run, "model-0000004.safetensors"), nil, 0o666))
	var wrong *UsageError
	require.ErrorAs(t, NotOf(run, filepath.Join(run, "model-0000004.safetensors")), &wrong)
	require.ErrorAs(t, NotOf(run, filepath.Join(link, "model-0000004.safetensors")), &wrong)
	require.NoError(t, NotOf(run, filepath.Join(run, "average.safetensors")))
	require.NoError(t, NotOf(run, filepath.Join(dir, "average.safetensors")))
}
