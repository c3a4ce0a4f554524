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

// A model has the components that it is opened with: each does what it does in the whole model, and what needs another one is an error.
func TestOpenWithout(t *testing.T) {
	for _, kind := range []string{"sd15", "sdxl"} {
		dir := filepath.Join(t.TempDir(), kind)
		require.NoError(t, tiny.Write(dir, kind))
		open := func(without Components) *Model {
			m, err := Open(dir, Options{Without: without})
			require.NoError(t, err)
			return m
		}
		whole, encoders, network := open(Components{}), open(Components{UNet: true}), open(Components{Text: true, VAE: true})
		require.Nil(t, encoders.UNet)
		require.Nil(t, network.VAE)
		require.Empty(t, network.Texts)
		for _, m := range []*Model{encoders, network} {
			require.ErrorContains(t, m.Usable(), "components")
			require.NoError(t, m.Loaded())
			require.Equal(t, torch.Float32, m.DType())
			require.Equal(t, torch.CPU, m.Device())
			require.False(t, m.Inpaints() || m.Distilled())
		}
		_, err := encoders.Denoiser()
		require.ErrorContains(t, err, "unet")
		d, err := network.Denoiser()
		require.NoError(t, err)
		require.Same(t, network.UNet, d.Net)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			text := Text{Prompt: "a cat", Plain: true}
			want, got := whole.Embed(s, nil, text)[0], encoders.Embed(s, nil, text)[0]
			require.Equal(t, want.Text.Bytes(), got.Text.Bytes())
			require.Equal(t, want.Pooled == nil, got.Pooled == nil)
			if want.Pooled != nil {
				require.Equal(t, want.Pooled.Bytes(), got.Pooled.Bytes())
			}
			require.ErrorContains(t, torch.Catch(func() { network.Embed(s, nil, text) }), "no text encoder")
			x := torch.Zeros(s, torch.Float32, 1, 3, 16, 16)
			require.Equal(t, whole.VAE.Encode(s, x, nil).Bytes(), encoders.VAE.Encode(s, x, nil).Bytes())
			return nil
		}))
		files, err := weights.Open(dir, Options{}.Files())
		require.NoError(t, err)
		need := func(without Components) float64 {
			n, err := EstimateNeed(files, Options{Without: without}, Drawing{})
			require.NoError(t, err)
			return n.Weights
		}
		require.InDelta(t, need(Components{}), need(Components{UNet: true})+need(Components{Text: true, VAE: true}), 0.5)
		require.NoError(t, files.Close())
		for _, m := range []*Model{whole, encoders, network} {
			require.NoError(t, m.Close())
			require.ErrorIs(t, m.Loaded(), torch.ErrFreed)
		}
	}
}
