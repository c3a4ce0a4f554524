package plainfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWalk(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "open"), 0o755))
	require.NoError(t, os.Mkdir(closed, 0o755))
	for _, name := range []string{"a", "open/b", "closed/c"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	require.NoError(t, os.Chmod(closed, 0))
	t.Cleanup(func() { _ = os.Chmod(closed, 0o755) })
	var found []string
	each := func(path string) error {
		found = append(found, filepath.Base(path))
		return nil
	}
	require.NoError(t, Walk(dir, each))
	want := []string{"a", "b"}
	if os.Geteuid() == 0 { // who reads everything
		want = []string{"a", "c", "b"}
	}
	require.Equal(t, want, found)
	require.Error(t, Walk(filepath.Join(dir, "none"), each))

	before := maxEntries
	t.Cleanup(func() { maxEntries = before })
	maxEntries = 3
	err := Walk(dir, each)
	require.ErrorContains(t, err, "at most 3 files")
	require.ErrorContains(t, err, dir)
}
