package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// normed are the results of SiLU of a group norm: the value, and the gradients of input, weight and bias.
type normed [4]*torch.Tensor

// normSiLU runs the operator on x, w and b in the types of its arguments and returns its results in float64.
func normSiLU(s *torch.Scope, groups int, x, w, b, dy *torch.Tensor) (got normed) {
	leaf := func(t *torch.Tensor) *torch.Tensor {
		t = t.Detach(s).Alias(s).Detach(s)
		t.SetRequiresGrad(true)
		return t
	}
	x, w, b = leaf(x), leaf(w), leaf(b)
	y := x.GroupNormSiLU(s, groups, w, b, 1e-5)
	grads := torch.Grad(s, []*torch.Tensor{y}, []*torch.Tensor{x, w, b}, torch.BackwardOptions{Grads: []*torch.Tensor{dy.To(s, y.DType())}})
	for i, t := range append([]*torch.Tensor{y.Detach(s)}, grads...) {
		got[i] = t.To(s, torch.Float64)
	}
	return got
}

// off is the largest difference, relative to the largest value.
func off(s *torch.Scope, got, want *torch.Tensor) float64 {
	return got.Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
}

// The fused operator gives the values and gradients of the plain ones in float64 but for rounding: for shapes that are no multiples of a
// vector, both memory orders, a mean far from 0, inputs that it has no kernel for, and both types.
func TestGroupNormSiLU(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		for _, c := range []struct {
			shape  []int
			groups int
		}{
			{[]int{2, 6, 5, 7}, 3}, {[]int{1, 4, 1, 1}, 1}, {[]int{3, 8, 40}, 8}, {[]int{2, 32}, 4}, {[]int{5, 32, 9, 8}, 8}, {[]int{1, 48, 6, 6}, 3},
			{[]int{2, 80, 3, 5}, 5}, {[]int{1, 128, 12, 12}, 32}, {[]int{2, 96, 4, 4}, 2},
		} {
			for _, mean := range []float64{0, 100} {
				channels := c.shape[1]
				exact := torch.Randn(s, g, torch.Float64, c.shape...).AddScalar(s, mean)
				weight, bias := torch.Randn(s, g, torch.Float64, channels), torch.Randn(s, g, torch.Float64, channels)
				dy := torch.Randn(s, g, torch.Float64, c.shape...)
				for _, o := range []struct {
					input, params torch.DType
					tolerance     float64
				}{
					// Values a hundred times their deviation are rounded to 1e-5 of it.
					{torch.Float32, torch.Float32, 2e-6 * (1 + mean/5)},
					// Results are rounded to 2⁻⁹, parameters in bfloat16, too.
					{torch.BFloat16, torch.Float32, 0.006}, {torch.BFloat16, torch.BFloat16, 0.015},
				} {
					x := exact.To(s, o.input)
					rounded := x.To(s, torch.Float64)
					want := normSiLU(s, c.groups, rounded, weight, bias, dy)
					for name, input := range map[string]*torch.Tensor{"contiguous": x, "transposed": x.Transpose(s, 0, 1).Contiguous(s).Transpose(s, 0, 1)} {
						inputs := map[string]*torch.Tensor{name: input}
						if len(c.shape) == 4 {
							inputs["channels last"] = x.ChannelsLast(s)
						}
						for name, input := range inputs {
							if fused := name == "contiguous" || name == "channels last" && channels%16 == 0; !fused && mean > 0 {
								continue // libtorch's own operators are not that exact
							}
							got := normSiLU(s, c.groups, input, weight.To(s, o.params), bias.To(s, o.params), dy)
							for i, what := range []string{"value", "gradient of x", "gradient of the weight", "gradient of the bias"} {
								if i == 1 && want[1].Abs(s).Max(s).Item() < 1e-9 { // a group of one value
									continue
								}
								require.LessOrEqual(t, off(s, got[i], want[i]), o.tolerance, "%s of %s in %v with %v, shape %v, mean %g", what, name, o.input, o.params, c.shape, mean)
							}
						}
					}
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
}

// Gradients sum up values of different signs: with many pixels the fused operator is as exact as with few. Its result is the same on one
// thread as on several, and off, the plain operators give the same but for rounding.
func TestGroupNormSiLUOfManyPixels(t *testing.T) {
	threads := torch.Threads()
	defer func() { require.NoError(t, torch.SetThreads(threads)) }()
	defer torch.SetFused(true)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, dy := torch.Randn(s, g, torch.Float64, 1, 32, 150, 100), torch.Randn(s, g, torch.Float64, 1, 32, 150, 100)
		w, b := torch.Randn(s, g, torch.Float64, 32), torch.Randn(s, g, torch.Float64, 32)
		want := normSiLU(s, 8, x, w, b, dy)
		narrow := func(t *torch.Tensor) *torch.Tensor { return t.To(s, torch.Float32) }
		for _, x := range []*torch.Tensor{narrow(x), narrow(x).ChannelsLast(s)} {
			require.NoError(t, torch.SetThreads(2))
			got := normSiLU(s, 8, x, narrow(w), narrow(b), dy)
			require.NoError(t, torch.SetThreads(1))
			one := normSiLU(s, 8, x, narrow(w), narrow(b), dy)
			torch.SetFused(false)
			plain := normSiLU(s, 8, x, narrow(w), narrow(b), dy)
			torch.SetFused(true)
			for i := range want {
				require.LessOrEqual(t, off(s, got[i], want[i]), 3e-6)
				require.Zero(t, off(s, one[i], got[i]))
				require.LessOrEqual(t, off(s, plain[i], got[i]), 2e-5)
			}
		}
		return nil
	})
	require.NoError(t, err)
}

// Values that are not finite give a result that is not: a run has to see that it diverged. Large ones give silu's limits.
func TestGroupNormSiLUOfExtremes(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		ones, zeros := torch.Ones(s, torch.Float32, 2), torch.Zeros(s, torch.Float32, 2)
		for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
			for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
				x := torch.FromSlice(s, []float32{1, v, 3, 4}, 1, 2, 2).To(s, d)
				y := torch.ToSlice[float32](x.GroupNormSiLU(s, 2, ones, zeros, 1e-5).To(s, torch.Float32))
				require.NotEqual(t, y[1], y[1], "%v of %g", d, v)
				require.InDelta(t, 0.731, y[3], 0.01, "another group")
			}
			x := torch.FromSlice(s, []float32{-1, 1, -1, 1}, 1, 2, 2).To(s, d)
			y := torch.ToSlice[float32](x.GroupNormSiLU(s, 2, ones.MulScalar(s, 1000), zeros, 1e-5).To(s, torch.Float32))
			require.InDeltaSlice(t, []float32{0, 1000, 0, 1000}, y, 5)
			require.False(t, math.Signbit(float64(y[1])))
		}
		return nil
	})
	require.NoError(t, err)
}

// Derivatives in forward mode and second derivatives go through the plain operators.
func TestGroupNormSiLUDerivatives(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, v := torch.Randn(s, g, torch.Float64, 2, 16, 3, 3), torch.Randn(s, g, torch.Float64, 2, 16, 3, 3)
		w, b := torch.Randn(s, g, torch.Float64, 16), torch.Randn(s, g, torch.Float64, 16)
		both := func(d torch.DType) (tangent, second *torch.Tensor) {
			x, v, w, b := x.To(s, d), v.To(s, d), w.To(s, d), b.To(s, d)
			_, tangent = torch.JVP(s, func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return in[0].GroupNormSiLU(s, 4, w, b, 1e-5) },
				[]*torch.Tensor{x}, []*torch.Tensor{v})
			x = x.Clone(s).Detach(s)
			x.SetRequiresGrad(true)
			y := x.GroupNormSiLU(s, 4, w, b, 1e-5)
			first := torch.Grad(s, []*torch.Tensor{y.Square(s).Sum(s)}, []*torch.Tensor{x}, torch.BackwardOptions{CreateGraph: true})[0]
			second = torch.Grad(s, []*torch.Tensor{first.Mul(s, v).Sum(s)}, []*torch.Tensor{x}, torch.BackwardOptions{})[0]
			return tangent.Detach(s).To(s, torch.Float64), second.Detach(s).To(s, torch.Float64)
		}
		tangent, second := both(torch.Float32)
		wantTangent, wantSecond := both(torch.Float64)
		require.LessOrEqual(t, off(s, tangent, wantTangent), 1e-5)
		require.LessOrEqual(t, off(s, second, wantSecond), 1e-5)
		return nil
	})
	require.NoError(t, err)
}

// A function that JVP differentiates knows it, in scopes of its own too, and nothing outside does.
func TestInJVP(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.False(t, s.InJVP())
		x := torch.Ones(s, torch.Float32, 2)
		torch.JVP(s, func(in *torch.Scope, xs []*torch.Tensor) *torch.Tensor {
			require.True(t, in.InJVP())
			require.False(t, s.InJVP())
			return in.Tidy(func(in *torch.Scope) *torch.Tensor {
				require.True(t, in.InJVP())
				return xs[0].Square(in)
			})
		}, []*torch.Tensor{x}, []*torch.Tensor{x})
		require.False(t, s.InJVP())
		return nil
	})
	require.NoError(t, err)
	require.True(t, torch.Fused())
}
