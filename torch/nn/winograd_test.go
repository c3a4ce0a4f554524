package nn

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// A 3×3 convolution of enough pixels in channels-last order is computed by this library's kernels, with gradients, without them and in a network
// that was packed, to the same bits; all others are libtorch's.
func TestOwnConvolution(t *testing.T) {
	defer torch.SetFused(true)
	var own, strided, narrow Conv2D
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) {
		own = NewConv2D(p.Sub("own"), 16, 32, 3, torch.Conv2DOptions{Padding: 1})
		strided = NewConv2D(p.Sub("strided"), 16, 32, 3, torch.Conv2DOptions{Padding: 1, Stride: 2})
		narrow = NewConv2D(p.Sub("narrow"), 16, 3, 3, torch.Conv2DOptions{Padding: 1})
	})
	require.NoError(t, err)
	defer st.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 16, 16, 16)
		last := x.ChannelsLast(s)
		libtorch := func(c Conv2D, x *torch.Tensor) float64 { // the largest difference from it
			return c.Forward(s, x).Sub(s, x.Conv2D(s, c.Weight, c.Bias, c.Opt)).Abs(s).Max(s).Item()
		}
		require.NotZero(t, libtorch(own, last))
		require.LessOrEqual(t, libtorch(own, last), 1e-5)
		for what, d := range map[string]float64{
			"order": libtorch(own, x), "stride": libtorch(strided, last), "channels": libtorch(narrow, last),
			"pixels": libtorch(own, x.Narrow(s, 2, 0, 15).ChannelsLast(s)), "type": libtorch(Conv2D{Weight: own.Weight.To(s, torch.Float64), Opt: own.Opt}, last.To(s, torch.Float64)),
		} {
			require.Zero(t, d, what)
		}
		with := own.Forward(s, last)
		for _, w := range st.Tensors() {
			w.SetRequiresGrad(false)
		}
		for range 2 {
			without := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return own.Forward(s, last) })
			require.Zero(t, without.Sub(s, with).Abs(s).Max(s).Item())
			st.Pack()
		}
		torch.SetFused(false)
		require.Zero(t, libtorch(Conv2D{Weight: own.Weight, Bias: own.Bias, Opt: own.Opt}, last))
		return nil
	})
	require.NoError(t, err)
}
