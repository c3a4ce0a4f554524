package unet

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
)

// The benchmarks' network in float32 on the CPU, whose convolutions are this library's own, gives the values and gradients of libtorch's operators
// within what comparisons with reference networks allow, in the images' order in memory; a checkpointed one repeats their bits.
func TestOwnConvolutions(t *testing.T) {
	defer torch.SetFused(true)
	net := build(t, benchmark(32, 3))
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		randomize(s, net)
		g := torch.NewGenerator(s, 3)
		x, noise := torch.Randn(s, g, torch.Float32, 1, 3, 32, 32), torch.Randn(s, g, torch.Float32, 1)
		var weights []*torch.Tensor
		for _, w := range net.Parameters() {
			w.SetRequiresGrad(true)
			weights = append(weights, w)
		}
		run := func(c models.Cond) (y *torch.Tensor, gradients []*torch.Tensor) {
			y = net.Forward(s, x, noise, c)
			require.True(t, y.IsContiguous())
			y.Square(s).Mean(s).Backward()
			for _, w := range weights {
				gradients = append(gradients, w.Grad(s))
				w.ZeroGrad()
			}
			return y.Detach(s), gradients
		}
		y, got := run(models.Cond{})
		again, repeated := run(models.Cond{Checkpointing: true})
		torch.SetFused(false)
		plain, want := run(models.Cond{})
		off := func(a, b *torch.Tensor) float64 {
			return a.Sub(s, b).Square(s).Mean(s).Sqrt(s).Item() / max(b.Square(s).Mean(s).Sqrt(s).Item(), 1e-12)
		}
		require.Zero(t, off(again, y))
		require.NotZero(t, off(y, plain), "the kernels ran")
		require.LessOrEqual(t, off(y, plain), 2e-5)
		var all, difference float64
		for i := range want {
			require.Zero(t, got[i].Sub(s, repeated[i]).Abs(s).Max(s).Item())
			all += want[i].Square(s).Sum(s).Item()
			difference += got[i].Sub(s, want[i]).Square(s).Sum(s).Item()
		}
		t.Logf("relative: values %.2g, gradients %.2g", off(y, plain), difference/all)
		require.LessOrEqual(t, difference, 4e-10*all) // the square of 2e-5

		// In bfloat16 they are as near to float32 as libtorch's operators are, in values and gradients.
		half := func(fused bool) (value, gradient float64) {
			torch.SetFused(fused)
			y, got := run(models.Cond{Precision: torch.BFloat16})
			for i := range want {
				gradient += got[i].Sub(s, want[i]).Square(s).Sum(s).Item()
			}
			return off(y, plain), math.Sqrt(gradient / all)
		}
		value, gradient := half(true)
		theirs, theirGradient := half(false)
		t.Logf("bfloat16: values %.2g, libtorch's %.2g, gradients %.2g, libtorch's %.2g", value, theirs, gradient, theirGradient)
		require.LessOrEqual(t, value, theirs)
		require.LessOrEqual(t, gradient, theirGradient)
		return nil
	})
	require.NoError(t, err)
}

// Features of grey images, whose memory is in both orders at once, are in the order that the kernels want, too.
func TestFeaturesOrder(t *testing.T) {
	for _, channels := range []int{1, 3} {
		net := build(t, benchmark(32, channels))
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 2, channels, 32, 32)
			require.True(t, blocks.LastIsFaster(s, x, x, net.config.ScaleShift, net.config.Channels))
			h, _ := blocks.Enter(s, net.convIn, x, nil, true)
			require.True(t, h.IsChannelsLast())
			require.False(t, h.IsContiguous())
			require.True(t, net.Forward(s, x, torch.Zeros(s, torch.Float32, 2), models.Cond{}).IsContiguous())
			return nil
		})
		require.NoError(t, err)
	}
}
