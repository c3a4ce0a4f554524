package builtintext

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The directory is written once, and again if something is wrong with it.
func TestDir(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "new", "cache")
	dir, err := Dir(cache)
	require.NoError(t, err)
	require.True(t, whole(dir))
	weights := filepath.Join(dir, "unet", "diffusion_pytorch_model.safetensors")
	first, err := os.Stat(weights)
	require.NoError(t, err)

	again, err := Dir(cache)
	require.NoError(t, err)
	require.Equal(t, dir, again)
	second, err := os.Stat(weights)
	require.NoError(t, err)
	require.True(t, os.SameFile(first, second), "a whole directory is left alone")

	for name, damage := range map[string]func() error{
		"cut": func() error { return os.Truncate(weights, 100) },
		"flipped": func() error { // of the same size
			f, err := os.OpenFile(weights, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{0xff}, 1e6)
			return errors.Join(err, f.Close())
		},
		"missing": func() error { return os.Remove(filepath.Join(dir, "model_index.json")) },
		"changed": func() error {
			return os.WriteFile(filepath.Join(dir, "tokenizer", "merges.txt"), []byte("a b\n"), 0o666)
		},
	} {
		require.NoError(t, damage(), name)
		require.False(t, whole(dir), name)
		_, err := Dir(cache)
		require.NoError(t, err, name)
		require.True(t, whole(dir), name)
	}
	entries, err := os.ReadDir(cache)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left over")
}

func TestDirAtOnce(t *testing.T) {
	cache := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			dir, err := Dir(cache)
			assert.NoError(t, err)
			assert.True(t, whole(dir))
		})
	}
	wg.Wait()
}

// The model takes at most 20 MB of a program. Every embedded file is listed, and has the content that the list says.
func TestEmbedded(t *testing.T) {
	all, _ := files()
	var size int64
	names := map[string]bool{"files.txt": true}
	for _, f := range all {
		h := sha256.New()
		require.NoError(t, f.write(h), f.name)
		assert.Equal(t, f.sum, hex.EncodeToString(h.Sum(nil)), f.name)
		names[f.name] = true
	}
	require.NoError(t, fs.WalkDir(embedded, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		st, err := e.Info()
		size += st.Size()
		assert.True(t, names[strings.TrimSuffix(strings.TrimPrefix(path, "model/"), packed)], path)
		return err
	}))
	require.Less(t, size, int64(20_000_000))
	require.GreaterOrEqual(t, len(all), 10)
}
