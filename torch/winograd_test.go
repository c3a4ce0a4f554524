package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// convolved are the results of a 3×3 convolution in float64: the value, and the gradients of input, weight and bias.
func convolved(s *torch.Scope, x, w, b, dy *torch.Tensor) (got [4]*torch.Tensor) {
	leaf := func(t *torch.Tensor) *torch.Tensor {
		t = t.Detach(s).Alias(s).Detach(s)
		t.SetRequiresGrad(true)
		return t
	}
	x, w, b = leaf(x), leaf(w), leaf(b)
	y := x.Conv3x3(s, w, b)
	grads := torch.Grad(s, []*torch.Tensor{y}, []*torch.Tensor{x, w, b}, torch.BackwardOptions{Grads: []*torch.Tensor{dy.To(s, y.DType())}})
	for i, t := range append([]*torch.Tensor{y.Detach(s)}, grads...) {
		got[i] = t.To(s, torch.Float64)
	}
	return got
}

// relative is the largest difference, relative to the root mean square.
func relative(s *torch.Scope, got, want *torch.Tensor) float64 {
	rms := want.Square(s).Mean(s).Sqrt(s).Item()
	return got.Sub(s, want).Abs(s).Max(s).Item() / rms
}

var convParts = []string{"value", "gradient of x", "gradient of the weight", "gradient of the bias"}

// Values and gradients are those of libtorch's convolution in float64, for sizes that are no multiples of a tile, few and many channels, inputs
// in other orders in memory, and numbers of channels that have no kernel. The results of these come in the input's order, as always.
func TestConv3x3(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		for _, c := range []struct{ n, in, out, h, w int }{
			{1, 16, 16, 1, 1}, {1, 16, 16, 4, 4}, {2, 16, 48, 7, 5}, {1, 64, 16, 3, 9}, {3, 32, 80, 8, 8}, {1, 320, 64, 6, 10}, {2, 64, 320, 5, 4},
			{5, 64, 64, 9, 13}, {1, 640, 400, 4, 5}, {1, 400, 640, 4, 5}, {1, 1, 16, 6, 6}, {1, 3, 64, 8, 8}, {1, 64, 3, 8, 8}, {2, 17, 17, 5, 5}, {1, 16, 1, 4, 4},
		} { // the weights of 640 to 400 channels do not fit at once
			exact, dy := torch.Randn(s, g, torch.Float64, c.n, c.in, c.h, c.w), torch.Randn(s, g, torch.Float64, c.n, c.out, c.h, c.w)
			w, b := torch.Randn(s, g, torch.Float64, c.out, c.in, 3, 3), torch.Randn(s, g, torch.Float64, c.out)
			w, b = w.To(s, torch.Float32), b.To(s, torch.Float32)
			x := exact.To(s, torch.Float32)
			dy = dy.To(s, torch.Float32)
			want := convolved(s, x.To(s, torch.Float64), w.To(s, torch.Float64), b.To(s, torch.Float64), dy.To(s, torch.Float64))
			for name, x := range map[string]*torch.Tensor{"contiguous": x, "channels last": x.ChannelsLast(s), "transposed": x.Transpose(s, 2, 3).Contiguous(s).Transpose(s, 2, 3)} {
				for order, dy := range map[string]*torch.Tensor{"contiguous": dy, "channels last": dy.ChannelsLast(s)} {
					got := convolved(s, x, w, b, dy)
					for i, what := range convParts {
						require.Equal(t, want[i].Shape(), got[i].Shape())
						require.LessOrEqual(t, relative(s, got[i], want[i]), 3e-5, "%s of %v, %s, gradient %s", what, c, name, order)
					}
				}
			}
			y := x.ChannelsLast(s).Conv3x3(s, w, nil).To(s, torch.Float64)
			require.True(t, y.IsChannelsLast() || c.in == 1)
			require.LessOrEqual(t, relative(s, y.Add(s, b.To(s, torch.Float64).Reshape(s, 1, -1, 1, 1)), want[0]), 3e-5, "without a bias")
		}
		return nil
	})
	require.NoError(t, err)
}

// Results are the same bits on one thread as on two, and each time; off, they are libtorch's. Over many channels the error stays small
// against the results' root mean square: five times that of the plain sum.
func TestConv3x3Repeats(t *testing.T) {
	threads := torch.Threads()
	defer func() { require.NoError(t, torch.SetThreads(threads)) }()
	defer torch.SetFused(true)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		for _, n := range []int{1, 9} {
			x, dy := torch.Randn(s, g, torch.Float32, n, 256, 8, 8).ChannelsLast(s), torch.Randn(s, g, torch.Float32, n, 128, 8, 8).ChannelsLast(s)
			w, b := torch.Randn(s, g, torch.Float32, 128, 256, 3, 3), torch.Randn(s, g, torch.Float32, 128)
			require.NoError(t, torch.SetThreads(2))
			got := convolved(s, x, w, b, dy)
			again := convolved(s, x, w, b, dy)
			require.NoError(t, torch.SetThreads(1))
			one := convolved(s, x, w, b, dy)
			torch.SetFused(false)
			off := convolved(s, x, w, b, dy)
			torch.SetFused(true)
			exact := x.To(s, torch.Float64).Conv2D(s, w.To(s, torch.Float64), b.To(s, torch.Float64), torch.Conv2DOptions{Padding: 1})
			require.Zero(t, relative(s, x.Conv2D(s, w, b, torch.Conv2DOptions{Padding: 1}).To(s, torch.Float64), off[0]))
			for i, what := range convParts {
				require.Zero(t, relative(s, again[i], got[i]), what)
				require.Zero(t, relative(s, one[i], got[i]), what)
				require.LessOrEqual(t, relative(s, off[i], got[i]), 3e-5, what)
			}
			require.NotZero(t, relative(s, off[0], got[0]), "the kernels ran")
			rms := func(got *torch.Tensor) float64 {
				return got.Sub(s, exact).Square(s).Mean(s).Sqrt(s).Item() / exact.Square(s).Mean(s).Sqrt(s).Item()
			}
			require.LessOrEqual(t, rms(got[0]), 2.5e-6)
			t.Logf("error of values relative to their root mean square: %.2g, libtorch's %.2g", rms(got[0]), rms(off[0]))
		}
		return nil
	})
	require.NoError(t, err)
}

// Derivatives in forward mode and second derivatives go through libtorch's convolution.
func TestConv3x3Derivatives(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, v := torch.Randn(s, g, torch.Float64, 2, 16, 6, 6).ChannelsLast(s), torch.Randn(s, g, torch.Float64, 2, 16, 6, 6).ChannelsLast(s)
		w, b := torch.Randn(s, g, torch.Float64, 16, 16, 3, 3), torch.Randn(s, g, torch.Float64, 16)
		all := func(d torch.DType) (got [3]*torch.Tensor) {
			x, v, w, b := x.To(s, d), v.To(s, d), w.To(s, d), b.To(s, d)
			_, got[0] = torch.JVP(s, func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return in[0].Conv3x3(s, w, b).Square(s) },
				[]*torch.Tensor{x}, []*torch.Tensor{v})
			x, w = x.Clone(s).Detach(s), w.Clone(s).Detach(s)
			x.SetRequiresGrad(true)
			w.SetRequiresGrad(true)
			first := torch.Grad(s, []*torch.Tensor{x.Conv3x3(s, w, b).Square(s).Sum(s)}, []*torch.Tensor{x}, torch.BackwardOptions{CreateGraph: true})[0]
			second := torch.Grad(s, []*torch.Tensor{first.Mul(s, v).Sum(s)}, []*torch.Tensor{x, w}, torch.BackwardOptions{})
			copy(got[1:], second)
			for i := range got {
				got[i] = got[i].Detach(s).To(s, torch.Float64)
			}
			return got
		}
		got, want := all(torch.Float32), all(torch.Float64)
		for i := range got {
			require.LessOrEqual(t, relative(s, got[i], want[i]), 3e-5)
		}
		return nil
	})
	require.NoError(t, err)
}

// What a call takes beside its result is bounded: the transformed weights of 64 output channels, and some tiles.
func TestConv3x3Memory(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		const c, side = 64, 256
		x, w := torch.Ones(s, torch.Float32, 1, c, side, side).ChannelsLast(s), torch.Ones(s, torch.Float32, c, c, 3, 3)
		x.SetRequiresGrad(true)
		w.SetRequiresGrad(true)
		require.NoError(t, torch.EmptyCache())
		before := memory(t)
		y := x.Conv3x3(s, w, nil)
		torch.Grad(s, []*torch.Tensor{y}, []*torch.Tensor{x, w}, torch.BackwardOptions{Grads: []*torch.Tensor{y.Detach(s)}})
		const images = 4 * c * side * side // value and gradient of x are one each
		require.LessOrEqual(t, memory(t).Reserved-before.Reserved, int64(2*images+8*mib))
		return nil
	})
	require.NoError(t, err)
}

// In bfloat16 the parameters may be in float32, and are then not rounded to bfloat16: the error is less than that of libtorch's convolution, whose
// weight is, however many channels. With parameters in bfloat16 it is at most half as large again. Shapes and orders as in float32; those that have
// no kernel are libtorch's.
func TestConv3x3BFloat16(t *testing.T) {
	defer torch.SetFused(true)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		rms := func(got, want *torch.Tensor) float64 {
			return got.Sub(s, want).Square(s).Mean(s).Sqrt(s).Item() / want.Square(s).Mean(s).Sqrt(s).Item()
		}
		for _, c := range []struct {
			n, in, out, h, w int
			own              bool
		}{
			{1, 16, 16, 1, 1, false}, {2, 16, 48, 7, 5, true}, {1, 64, 16, 3, 9, true}, {3, 32, 80, 8, 8, true}, {1, 320, 64, 6, 10, true}, {2, 64, 320, 5, 4, true},
			{5, 64, 64, 9, 13, true}, {1, 640, 400, 4, 5, true}, {1, 400, 640, 4, 5, true}, {1, 3, 64, 8, 8, false}, {1, 64, 3, 8, 8, false}, {2, 17, 17, 5, 5, false},
		} {
			randn := func(d torch.DType, shape ...int) *torch.Tensor {
				return torch.Randn(s, g, torch.Float32, shape...).To(s, d)
			}
			x, dy := randn(torch.BFloat16, c.n, c.in, c.h, c.w), randn(torch.BFloat16, c.n, c.out, c.h, c.w)
			for _, parameters := range []torch.DType{torch.Float32, torch.BFloat16} {
				w, b := randn(parameters, c.out, c.in, 3, 3), randn(parameters, c.out)
				want := convolved(s, x.To(s, torch.Float64), w.To(s, torch.Float64), b.To(s, torch.Float64), dy.To(s, torch.Float64))
				torch.SetFused(false)
				libtorch := convolved(s, x.ChannelsLast(s), w, b, dy)
				torch.SetFused(true)
				for name, x := range map[string]*torch.Tensor{"contiguous": x, "channels last": x.ChannelsLast(s), "transposed": x.Transpose(s, 2, 3).Contiguous(s).Transpose(s, 2, 3)} {
					for order, dy := range map[string]*torch.Tensor{"contiguous": dy, "channels last": dy.ChannelsLast(s)} {
						got := convolved(s, x, w, b, dy)
						for i, what := range convParts {
							require.Equal(t, want[i].Shape(), got[i].Shape())
							most, off := 6e-3, rms(got[i], want[i]) // libtorch's
							if c.own && name == "channels last" && torch.FusedConv(torch.BFloat16) {
								most = 1.5*rms(libtorch[i], want[i]) + 1e-5
								if parameters == torch.Float32 {
									most = rms(libtorch[i], want[i])
									if i >= 2 {
										most = 3e-5 // sums in float32
									}
								}
							}
							require.LessOrEqual(t, off, most, "%s of %v, %s, gradient %s, parameters %s", what, c, name, order, parameters)
						}
					}
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
}

// Numbers in bfloat16 may have any size: sums never overflow, even if all products have one sign, each image and output channel is as exact as any,
// and what is not finite stays so.
func TestConv3x3BFloat16Sizes(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		for _, c := range []int{16, 64, 320, 1280} {
			x, w := torch.Ones(s, torch.BFloat16, 1, c, 8, 8).ChannelsLast(s), torch.Full(s, -1, torch.Float32, 16, c, 3, 3)
			inner := x.Conv3x3(s, w, nil).Narrow(s, 2, 1, 6).Narrow(s, 3, 1, 6).To(s, torch.Float64)
			require.LessOrEqual(t, inner.DivScalar(s, float64(-9*c)).SubScalar(s, 1).Abs(s).Max(s).Item(), 1./128, c)
		}
		x, w := torch.Randn(s, g, torch.Float32, 4, 32, 8, 8), torch.Randn(s, g, torch.Float32, 16, 32, 3, 3)
		images, channels := torch.FromSlice(s, []float32{1e-9, 1, 1e6, 0}, 4, 1, 1, 1), torch.Linspace(s, -18, 16, 16, torch.Float32).Exp(s).Reshape(s, 16, 1, 1, 1)
		x = x.Mul(s, images).To(s, torch.BFloat16)
		w = w.Mul(s, channels)
		got := x.ChannelsLast(s).Conv3x3(s, w, nil).To(s, torch.Float64)
		want := x.To(s, torch.Float64).Conv2D(s, w.To(s, torch.Float64), nil, torch.Conv2DOptions{Padding: 1})
		size := want.Square(s).MeanDim(s, false, 2, 3).Sqrt(s)
		off := got.Sub(s, want).Square(s).MeanDim(s, false, 2, 3).Sqrt(s)
		require.LessOrEqual(t, off.Sub(s, size.MulScalar(s, 1./256)).Max(s).Item(), 0.)
		for _, v := range []float64{math.NaN(), math.Inf(1)} {
			x := torch.Zeros(s, torch.BFloat16, 1, 16, 8, 8).ChannelsLast(s)
			x.Narrow(s, 2, 3, 1).Narrow(s, 3, 3, 1).CopyFrom(s, torch.Full(s, v, torch.BFloat16, 1, 16, 1, 1))
			y := x.Conv3x3(s, w.Narrow(s, 1, 0, 16), nil).Narrow(s, 2, 2, 3).Narrow(s, 3, 2, 3).To(s, torch.Float64)
			require.Zero(t, y.MulScalar(s, 0).IsFinite(s).Sum(s).Item())
		}
		return nil
	})
	require.NoError(t, err)
}
