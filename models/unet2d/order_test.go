package unet2d

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Networks with enough channels compute inside in the order that this library's kernels want, with the values and gradients of libtorch's
// operators within rounding, and return images in the order in which they came; a checkpointed one repeats their bits.
func TestOwnConvolutions(t *testing.T) {
	defer torch.SetFused(true)
	for name, c := range map[string]Config{
		"default": {Height: 16, Channels: []int{32, 64}, Layers: 1, NormGroups: 8},
		"grey":    {Height: 16, InChannels: 1, Channels: []int{32, 64}, Layers: 1, NormGroups: 8},
		"ncsn++": {
			Height: 16, Channels: []int{32, 64}, Layers: 1, Down: []Block{SkipDownBlock, AttnSkipDownBlock}, Up: []Block{AttnSkipUpBlock, SkipUpBlock},
		},
	} {
		t.Run(name, func(t *testing.T) {
			net, err := New(c, torch.CPU, torch.Float32, 1)
			require.NoError(t, err)
			defer net.Close()
			err = torch.Run(torch.CPU, func(s *torch.Scope) error {
				in := net.config.InChannels
				x, noise := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 2, in, 16, 16), torch.FromSlice(s, []float32{10, 500})
				x.SetRequiresGrad(true)
				run := func(c models.Cond) (y, gradient *torch.Tensor) {
					y = net.Forward(s, x, noise, c)
					require.True(t, y.IsContiguous())
					y.Square(s).Sum(s).Backward()
					gradient = x.Grad(s).Clone(s)
					x.ZeroGrad()
					return y.Detach(s), gradient
				}
				y, got := run(models.Cond{})
				again, repeated := run(models.Cond{Checkpointing: true})
				torchtest.Close(t, "y", again, y, 0, 0)
				torchtest.Close(t, "gradient", repeated, got, 0, 0)
				if in > 1 { // grey images are in both orders
					torchtest.Close(t, "y of images in that order", net.Forward(s, x.ChannelsLast(s), noise, models.Cond{}), y, 0, 0)
				}
				torch.SetFused(false)
				plain, want := run(models.Cond{})
				torch.SetFused(true)
				torchtest.Close(t, "y", y, plain, 2e-5*y.Abs(s).Max(s).Item(), 0)
				torchtest.Close(t, "gradient", got, want, 2e-5*want.Abs(s).Max(s).Item(), 0)
				return nil
			})
			require.NoError(t, err)
		})
	}
}
