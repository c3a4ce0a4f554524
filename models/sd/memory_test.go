package sd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// peakOf returns the bytes by which f raises the most that tensors ever held. It sees only what is larger than all that came before.
func peakOf(t *testing.T, f func(s *torch.Scope)) float64 {
	t.Helper()
	before, err := torch.CPU.Memory()
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error { f(s); return nil })
	}))
	after, err := torch.CPU.Memory()
	require.NoError(t, err)
	require.Greater(t, after.PeakAllocated, before.PeakAllocated, "choose a larger size")
	return float64(after.PeakAllocated - before.Allocated)
}

// Estimates of activations are within 30% of what networks of published shapes with a quarter of their channels hold at most.
func TestActivations(t *testing.T) {
	if !torchtest.Alone(t) {
		return
	}
	check := func(what string, got, want float64) {
		t.Logf("%s: %.1f MB, estimate %.1f MB, factor %.2f", what, got/1e6, want/1e6, want/got)
		require.InDelta(t, 1, want/got, 0.3, what)
	}
	var c unet.Config
	c.BlockOutChannels, c.AttentionHeadDim, c.CrossAttentionDim, c.NormNumGroups = unet.Ints{80, 160, 320, 320}, unet.Ints{2}, unet.Ints{64}, 16
	u, err := unet.New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer u.Close()
	forward := func(s *torch.Scope, n, h, w int) {
		u.Forward(s, torch.Zeros(s, torch.Float32, n, 4, h, w), torch.Zeros(s, torch.Float32, 1), models.Cond{Text: torch.Zeros(s, torch.Float32, n, 77, 64)})
	}
	peakOf(t, func(s *torch.Scope) { forward(s, 1, 8, 8) }) // which packs the weights
	for _, size := range [][3]int{{2, 32, 48}, {2, 48, 64}} {
		n, h, w := size[0], size[1], size[2]
		check("unet", peakOf(t, func(s *torch.Scope) { forward(s, n, h, w) }), 4*float64(n)*c.Activations(h, w))
	}
	v := vae.Config{Channels: []int{32, 64, 128, 128}}
	k, err := vae.New(v, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer k.Close()
	decode := func(h, w int) float64 {
		return peakOf(t, func(s *torch.Scope) { k.Decode(s, torch.Zeros(s, torch.Float32, 1, 4, h/8, w/8)) })
	}
	for _, size := range [][2]int{{256, 256}, {256, 384}} {
		check("vae", decode(size[0], size[1]), 4*v.Activations(size[0], size[1], 0))
	}
	tiny := vae.TAESD()
	a, err := vae.NewTiny(tiny, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer a.Close()
	check("tiny vae", peakOf(t, func(s *torch.Scope) { a.Decode(s, torch.Zeros(s, torch.Float32, 1, 4, 64, 64)) }), 4*tiny.Activations(512, 512, 0))
}
