package builtintext

import (
	"io/fs"
	"os"
	"path/filepath"
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
		"cut":     func() error { return os.Truncate(weights, 100) },
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

// The whole model is at most 20 MB.
func TestSize(t *testing.T) {
	var size int64
	require.NoError(t, fs.WalkDir(FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		st, err := e.Info()
		size += st.Size()
		return err
	}))
	require.Less(t, size, int64(20_000_000))
}
