package prompt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSave(t *testing.T) {
	dir := t.TempDir()
	want := Default().WithPad(0)
	require.NoError(t, want.Save(dir))
	got, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Error(t, want.Save(dir))
}
