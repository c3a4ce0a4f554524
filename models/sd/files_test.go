package sd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// A model is made of the files that were open when they were looked at: what became of their names since does not matter. It owns them.
func TestFromOpenFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tiny")
	require.NoError(t, tiny.Write(dir, "sd15"))
	files, err := weights.Open(dir, Options{}.Files())
	require.NoError(t, err)
	need, err := EstimateNeed(files, Options{}, Drawing{Width: 64, Height: 64})
	require.NoError(t, err)
	require.Positive(t, need.Peak())
	for _, part := range []string{"unet", "vae", "text_encoder"} {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, part)))
	}
	m, err := From(files, Options{})
	require.NoError(t, err)
	require.Equal(t, dir, m.Path)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		m.Embed(s, nil, Text{Prompt: "a cat"})
		return nil
	}))
	require.False(t, files.UNet.Closed())
	require.NoError(t, m.Close())
	require.True(t, files.UNet.Closed())

	_, err = Open(dir, Options{})
	require.Error(t, err)
	require.NoError(t, tiny.Write(filepath.Join(dir, "again"), "sd15"))
	files, err = weights.Open(filepath.Join(dir, "again"), Options{}.Files())
	require.NoError(t, err)
	_, err = From(files, Options{DType: torch.Float64})
	require.ErrorContains(t, err, "float64")
	require.True(t, files.UNet.Closed(), "with an error they are closed")
}
