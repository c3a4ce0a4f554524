package unet2d

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

var tiny = Config{Height: 8, Channels: []int{8, 16}, Layers: 1, NormGroups: 4}

func TestConformance(t *testing.T) {
	skip := Config{
		Height: 8, Channels: []int{32, 32}, Layers: 1, MidScale: 1.4, NormEps: 1e-6, Dropout: 0.1,
		Down: []Block{SkipDownBlock, AttnSkipDownBlock}, Up: []Block{AttnSkipUpBlock, SkipUpBlock},
	}
	full := Config{
		Height: 8, Width: 12, InChannels: 2, Channels: []int{8, 12, 20}, Layers: 1, NormGroups: 4, HeadDim: 4, ScaleShift: true, MidGroups: -1, Center: true,
		Down: []Block{ResnetDownBlock, AttnDownBlock, DownBlock}, Up: []Block{AttnUpBlock, UpBlock, ResnetUpBlock}, UpType: Resnet, PadAfter: true,
		Classes: 3, NullLabel: true, Until: true, Guidance: true, Dropout: 0.1,
	}
	for name, c := range map[string]Config{"ncsn++": skip, "full": full} {
		t.Run(name, func(t *testing.T) {
			full := c.WithDefaults()
			expect := modelstest.Expect{
				Shape: full.SampleShape(), Out: full.OutChannels, Classes: full.Classes, NoClass: full.NullLabel,
				Until: full.Until, Guidance: full.Guidance, Dropout: full.Dropout > 0, Initial: 0.01,
			}
			if name == "ncsn++" {
				expect.Initial = 0 // the output image of its blocks is not near zero
			}
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				modelstest.Network(t, dev, func(dev torch.Device, dtype torch.DType, seed uint64) (*UNet2D, error) {
					return New(c, dev, dtype, seed)
				}, expect)
			})
		})
	}
}

// A network with more conditioning inputs computes what the network does whose weights it adopted.
func TestAdopt(t *testing.T) {
	plain := tiny
	plain.Classes = 3
	more := plain
	more.NullLabel, more.Until, more.Guidance = true, true, true
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		from, err := New(plain, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer from.Close()
		to, err := New(more, torch.CPU, torch.Float32, 2)
		require.NoError(t, err)
		defer to.Close()
		require.NoError(t, to.Adopt(from.Tensors()))
		x, label := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 2, 3, 8, 8), torch.FromSlice(s, []float32{1, 7})
		cond := models.Cond{Class: torch.FromSlice(s, []int64{2, 0})}
		want := from.Forward(s, x, label, cond)
		cond.Until, cond.Guidance = torch.FromSlice(s, []float32{0.5, 3}), torch.FromSlice(s, []float32{1, 4})
		torchtest.Close(t, "adopted", to.Forward(s, x, label, cond), want, 1e-6, 1e-6)
		require.ErrorContains(t, from.Adopt(to.Tensors()), "unexpected")
		return nil
	}))
}

// The estimate is that of package unet for the same network, which is compared with what tensors hold.
func TestActivations(t *testing.T) {
	same := unet.Config{Resolution: 32, Channels: 32, Mult: []int{1, 2, 2}, Blocks: 2, Attention: []int{16}, Resample: unet.ResampleConv, NormGroups: 32}
	config, err := same.Diffusers()
	require.NoError(t, err)
	c, err := FromDiffusers(config)
	require.NoError(t, err)
	for _, gradients := range []bool{false, true} {
		require.InEpsilon(t, same.Activations(gradients), c.Activations(gradients), 0.15, gradients)
	}
	wide := c
	wide.Width = 64
	require.InDelta(t, 2, wide.Activations(false)/c.Activations(false), 0.01)
}

// The preset is DDPM's shape, and its size is what it was made from.
func TestOptions(t *testing.T) {
	o := Options{Channels: 16, Blocks: 1}
	c := o.Config(3, 28)
	require.NoError(t, c.Validate())
	require.Equal(t, []int{16, 32, 32}, c.Channels)
	require.Equal(t, []Block{DownBlock, DownBlock, AttnDownBlock}, c.Down)
	name, again := c.Options()
	require.Equal(t, "unet2d", name)
	require.Equal(t, o, again)
	_, err := c.Diffusers()
	require.NoError(t, err)
}
