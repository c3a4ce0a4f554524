package engine

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
)

// counted counts what an autoencoder decodes.
type counted struct {
	vae.Autoencoder
	decodes, closes atomic.Int32
}

func (c *counted) Decode(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	c.decodes.Add(1)
	return c.Autoencoder.Decode(s, x)
}

func (c *counted) Close() {
	c.closes.Add(1)
	c.Autoencoder.Close()
}

// Previews are decoded by the autoencoder that is given for them, as often as they are asked for. One that cannot be opened, or is another
// model's, is an error of the model.
func TestPreviewAutoencoder(t *testing.T) {
	m, _ := tinyModel(t, "sd15")
	var a counted
	m.Preview = func() (vae.Autoencoder, error) {
		tiny, err := sd.OpenTiny("../../models/sd/testdata/taesd_decoder.pth", torch.CPU, torch.Float32)
		a.Autoencoder = tiny
		return &a, err
	}
	e := engineOf(t, Options{Models: []Model{m}})
	got := read(ctx, e, Request{Prompt: "a cat", Steps: 4, Previews: 2})
	require.NoError(t, got.err)
	shown := 0
	for _, ev := range got.events {
		if ev.Previews != nil {
			shown++
		}
	}
	require.Equal(t, 2, shown)
	require.Equal(t, int32(2), a.decodes.Load())
	require.NoError(t, read(ctx, e, Request{Prompt: "a cat", Steps: 2}).err)
	require.Equal(t, int32(2), a.decodes.Load())
	require.NoError(t, e.Close())
	require.Equal(t, int32(1), a.closes.Load())

	broken := errors.New("broken")
	m.Preview = func() (vae.Autoencoder, error) { return nil, broken }
	e = engineOf(t, Options{Models: []Model{m}})
	require.ErrorIs(t, read(ctx, e, Request{Prompt: "a cat"}).err, broken)
}
