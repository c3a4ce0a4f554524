package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/libtorch"
)

func TestRoom(t *testing.T) {
	i := installer{release: libtorch.Supported()[0], cache: "/some/cache"}
	require.NoError(t, i.enough(2500))
	err := i.enough(1234)
	require.ErrorContains(t, err, "2500 MB free in /some/cache")
	require.ErrorContains(t, err, "1234")
	require.ErrorContains(t, i.with(true).enough(2500), "9000 MB")
	require.Positive(t, free(t.TempDir()))
}

// What is linked is the same files, and where a file system cannot link, the same bytes.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	require.NoError(t, os.MkdirAll(filepath.Join(from, "lib"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(from, "lib", "a.so"), []byte("a"), 0o644))
	require.NoError(t, os.Symlink("a.so", filepath.Join(from, "lib", "b.so")))
	require.NoError(t, link(from, to))
	a, err := os.Stat(filepath.Join(from, "lib", "a.so"))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(to, "lib", "b.so"))
	require.NoError(t, err)
	require.True(t, os.SameFile(a, b))
	name, err := os.Readlink(filepath.Join(to, "lib", "b.so"))
	require.NoError(t, err)
	require.Equal(t, "a.so", name)

	require.NoError(t, copyFile(filepath.Join(from, "lib", "a.so"), filepath.Join(to, "c.so")))
	text, err := os.ReadFile(filepath.Join(to, "c.so"))
	require.NoError(t, err)
	require.Equal(t, "a", string(text))
}

// A file that says the same is not written again, since Go would build anew what embeds it.
func TestPut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "found.json")
	lib := found{Version: "2.11.0", Path: `/a "b"`, Source: "PyPI"}
	require.NoError(t, put(path, lib))
	first, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, put(path, lib))
	second, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(first, second))
	lib.Source = "LIBTORCH"
	require.NoError(t, put(path, lib))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, `{"version":"2.11.0","path":"/a \"b\"","source":"LIBTORCH"}`+"\n", string(text))
}

// A path is no pattern, and a layer without sources is an error.
func TestLayerSources(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a[b")
	dir := filepath.Join(root, "csrc", "layer")
	_, err := layerSources(root)
	require.ErrorContains(t, err, dir)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	_, err = layerSources(root)
	require.ErrorContains(t, err, "no sources of the layer")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.cpp"), nil, 0o644))
	sources, err := layerSources(root)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "a.cpp")}, sources)
}

// Who waits for a lock can be interrupted, and gets it when it is given back.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".lock")
	unlock, err := lock(t.Context(), path, "waiting")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = lock(ctx, path, "waiting")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	time.AfterFunc(50*time.Millisecond, unlock)
	unlock, err = lock(t.Context(), path, "waiting")
	require.NoError(t, err)
	unlock()
}
