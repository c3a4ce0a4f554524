package libtorch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A directory's name is no pattern.
func TestMatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a[b]*?\`)
	require.Empty(t, Match(dir, "*"))
	require.NoError(t, os.Mkdir(dir, 0o755))
	for _, name := range []string{"b.cpp", "a.cpp", "c.h"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	require.Equal(t, []string{filepath.Join(dir, "a.cpp"), filepath.Join(dir, "b.cpp")}, Match(dir, "*.cpp"))
}

func TestWhole(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("a.c"), []byte(`const char onestep_layer_source[] = "0123456789ab"; char data[100000] = "x";`), 0o644))
	out, err := exec.Command(cc, "-shared", "-fPIC", "-o", at("a.so"), at("a.c")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, Whole(at("a.so")))
	require.NoError(t, WholeLayer(at("a.so"), "0123456789ab"))
	require.ErrorContains(t, WholeLayer(at("a.so"), "0123456789"), "no layer made from these sources")

	text, err := os.ReadFile(at("a.so"))
	require.NoError(t, err)
	damage := Damaged("")
	for _, size := range []int{0, 3, 64, 5000, len(text) / 2, len(text) - 1} {
		require.NoError(t, os.WriteFile(at("cut.so"), text[:size], 0o644))
		require.ErrorAs(t, Whole(at("cut.so")), &damage, size)
		require.NotContains(t, damage.Error(), "\n")
	}
	// Without a table of sections only the segments tell.
	bare := append([]byte(nil), text...)
	clear(bare[40:48]) // e_shoff
	clear(bare[58:64]) // e_shentsize, e_shnum, e_shstrndx
	require.NoError(t, os.WriteFile(at("bare.so"), bare, 0o644))
	require.NoError(t, Whole(at("bare.so")))
	require.NoError(t, os.WriteFile(at("bare.so"), bare[:len(bare)/2], 0o644))
	require.ErrorAs(t, Whole(at("bare.so")), &damage)

	require.NoError(t, syscall.Mkfifo(at("pipe.so"), 0o644))
	require.ErrorAs(t, Whole(at("pipe.so")), &damage)
	require.ErrorAs(t, Whole(dir), &damage)
	err = Whole(at("none.so"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.False(t, errors.As(err, &damage))
}
