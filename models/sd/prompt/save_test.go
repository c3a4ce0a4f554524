package prompt

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSave(t *testing.T) {
	dir := t.TempDir()
	want := Default().WithPad(0)
	require.NoError(t, want.Save(dir))
	got, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, want.words, got.words)
	require.True(t, maps.Equal(want.merges, got.merges))
	require.Equal(t, []int{want.BOS(), want.EOS(), want.Pad(), want.Max()}, []int{got.BOS(), got.EOS(), got.Pad(), got.Max()})
	require.Equal(t, want.bytes, got.bytes)
	require.Equal(t, want.raw, got.raw)
	require.Equal(t, want.cleaned, got.cleaned)
	require.Error(t, want.Save(dir))
}
