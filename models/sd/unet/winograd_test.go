package unet

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// narrow is a network of Stable Diffusion's blocks with few channels.
func narrow() Config {
	c := SD15()
	c.BlockOutChannels, c.AttentionHeadDim, c.CrossAttentionDim, c.NormNumGroups = Ints{32, 64}, Ints{2}, Ints{32}, 16
	c.DownBlockTypes, c.UpBlockTypes, c.LayersPerBlock = []string{crossDownBlock, "DownBlock2D"}, []string{"UpBlock2D", crossUpBlock}, Ints{1}
	return c
}

// The network and a ControlNet give the same by this library's convolutions as with packed weights, but for rounding; so do the network's
// gradients, for which it takes contiguous latents to channels-last order inside.
func TestOwnConvolutions(t *testing.T) {
	defer torch.SetFused(true)
	if torch.SetFused(true); !torch.Fused() {
		t.Skip("no kernels for this processor")
	}
	c := narrow()
	k := ControlNetConfig{Encoder: c.Encoder}.WithDefaults()
	control, err := ControlNetFrom(k, sdtest.Filled(ControlNetShapes(k)), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer control.Close()
	open := func() *UNet {
		u, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, torch.Float32)
		require.NoError(t, err)
		t.Cleanup(u.Close)
		return u
	}
	u, trained := open(), open()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, image := torch.Randn(s, g, torch.Float32, 1, 4, 32, 24), torch.Randn(s, g, torch.Float32, 1, 3, 256, 192)
		cond, at := models.Cond{Text: torch.Randn(s, g, torch.Float32, 1, 5, 32)}, torch.FromSlice(s, []float32{499}, 1)
		near := func(what string, f func(s *torch.Scope) *torch.Tensor) {
			own := f(s)
			torch.SetFused(false)
			want := f(s)
			torch.SetFused(true)
			off := own.Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
			t.Logf("%s: %.2g", what, off)
			require.NotZero(t, off, what)
			require.Less(t, off, tolerance32, what)
		}
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			near("unet", func(s *torch.Scope) *torch.Tensor { return u.Forward(s, x, at, cond) })
			near("control", func(s *torch.Scope) *torch.Tensor {
				with := cond
				with.Control = control.Forward(s, x, at, cond, image, 1, false)
				return u.Forward(s, x, at, with)
			})
			return nil
		}))
		x.SetRequiresGrad(true)
		near("gradient", func(s *torch.Scope) *torch.Tensor {
			y := trained.Forward(s, x, at, cond)
			require.True(t, y.IsContiguous())
			h, last := trained.enter(s, x, torch.Float32, nn.Adapters{})
			require.Equal(t, torch.Fused(), last)
			require.Equal(t, last, h.IsChannelsLast() && !h.IsContiguous())
			return torch.Grad(s, []*torch.Tensor{y.Square(s).Sum(s)}, []*torch.Tensor{x}, torch.BackwardOptions{})[0]
		})
		return nil
	}))
}
