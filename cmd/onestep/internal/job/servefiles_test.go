package job

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/generate"
)

// Weights that are cut short, written anew or replaced are noticed, and so is one that has gone.
func TestModelFiles(t *testing.T) {
	dir := t.TempDir()
	unet, log := filepath.Join(dir, "unet", "model.safetensors"), filepath.Join(dir, "log.txt")
	require.NoError(t, os.Mkdir(filepath.Dir(unet), 0o777))
	for _, path := range []string{unet, log} {
		require.NoError(t, os.WriteFile(path, []byte("weights"), 0o666))
	}
	m, err := filesOf(dir)
	require.NoError(t, err)
	open := func() {
		_, err := m.before(func() (*generate.Model, error) { return nil, nil })()
		require.NoError(t, err)
		assert.False(t, m.changed())
	}
	require.NoError(t, os.Truncate(log, 1))
	open()
	require.NoError(t, os.Truncate(unet, 3))
	assert.True(t, m.changed())
	open()
	require.NoError(t, os.WriteFile(unet+".new", []byte("wei"), 0o666))
	require.NoError(t, os.Rename(unet+".new", unet))
	assert.True(t, m.changed())
	open()
	require.NoError(t, m.there())
	require.NoError(t, os.Remove(unet))
	assert.False(t, m.changed())
	assert.ErrorContains(t, m.there(), "model.safetensors")
	built, err := filesOf("builtin")
	require.NoError(t, err)
	require.NoError(t, built.there())
}
