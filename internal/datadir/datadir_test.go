package datadir

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPath(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	require.Equal(t, "/data/onestep", Path())
	require.Equal(t, "/data/onestep/x", File("x"))
	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("HOME", "/home/me")
	require.Equal(t, "/home/me/.local/share/onestep/x", File("x"))
	t.Setenv("HOME", "")
	require.Empty(t, Path())
	require.Empty(t, File("x"))
}
