package training

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A result names what was saved, and not what was about to be when that failed.
func TestResultOfAFailedSave(t *testing.T) {
	for _, c := range []struct {
		blocked         string
		snapshot, state int
	}{{"state-%07d.safetensors", 8, 4}, {"model-%07d.safetensors", 4, 4}} {
		dir := t.TempDir()
		name := func(kind string, step int) string {
			return filepath.Join(dir, fmt.Sprintf("%s-%07d.safetensors", kind, step))
		}
		r, _, _, err := guardedThen(t, dir, Guard{}, at(), func(_ *poisoned, k int) {
			if k == 6 {
				require.NoError(t, os.Mkdir(filepath.Join(dir, fmt.Sprintf(c.blocked, 8)), 0o777))
			}
		})
		require.Error(t, err)
		require.Equal(t, name("state", c.state), r.State)
		require.Equal(t, name("model", c.snapshot), r.Snapshot)
		require.FileExists(t, r.State)
		require.FileExists(t, r.Snapshot)
	}
}

// States and snapshots do not replace what links of their names point to.
func TestSavedBesideLinks(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o666))
	_, _, _, err := guardedThen(t, dir, Guard{}, at(), func(_ *poisoned, k int) {
		if k == 6 {
			for _, name := range []string{"state-0000008.safetensors", "model-0000008.safetensors"} {
				require.NoError(t, os.Symlink(victim, filepath.Join(dir, name)))
			}
		}
	})
	require.NoError(t, err)
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}
