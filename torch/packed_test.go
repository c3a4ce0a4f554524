package torch_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// A packed weight gives what the plain one gives, for every option, for inputs in both memory orders, and for inputs of
// other sizes than it was packed for.
func TestPackedConvolutions(t *testing.T) {
	if !torch.Packs(torch.Float32) {
		t.Skip("this libtorch was built without oneDNN")
	}
	assert.False(t, torch.Packs(torch.Float64))
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
				if !torch.Packs(d) {
					continue
				}
				for _, o := range []torch.Conv2DOptions{{}, {Padding: 1}, {Stride: 2, Padding: 1}, {Dilation: 2}, {Groups: 2}} {
					w := torch.Randn(s, g, torch.Float32, 8, 6/max(o.Groups, 1), 3, 3).To(s, d)
					b := torch.Randn(s, g, torch.Float32, 8).To(s, d)
					packed := w.PackConv2D(s, []int{2, 6, 9, 7}, o)
					for _, shape := range [][]int{{2, 6, 9, 7}, {1, 6, 12, 12}} {
						x := torch.Randn(s, g, torch.Float32, shape...).To(s, d)
						want := x.To(s, torch.Float32).Conv2D(s, w.To(s, torch.Float32), b.To(s, torch.Float32), o)
						y := x.PackedConv2D(s, packed, b, o)
						assert.Equal(t, d, y.DType())
						last := x.ChannelsLast(s).PackedConv2D(s, packed, b, o)
						assert.True(t, last.IsChannelsLast())
						tolerance := 1e-5
						if d == torch.BFloat16 {
							tolerance = 0.07 // half a unit in the last place of sums up to 32, and rounding before it
						}
						for _, got := range []*torch.Tensor{y, last} {
							off := got.To(s, torch.Float32).Sub(s, want).Abs(s).Max(s).Item()
							assert.Less(t, off, tolerance, "%v %+v %v", d, o, shape)
						}
					}
				}
			}
			return nil
		})
	})
	require.NoError(t, err)
}

func TestPackedLinear(t *testing.T) {
	if !torch.Packs(torch.Float32) {
		t.Skip("this libtorch was built without oneDNN")
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
				if !torch.Packs(d) {
					continue
				}
				tolerance := 1e-5
				if d == torch.BFloat16 {
					tolerance = 0.04 // half a unit in the last place of sums up to 16, and rounding before it
				}
				w := torch.Randn(s, g, torch.Float32, 7, 5).To(s, d)
				packed := w.PackLinear(s, 6)
				for _, b := range []*torch.Tensor{nil, torch.Randn(s, g, torch.Float32, 7).To(s, d)} {
					for _, shape := range [][]int{{6, 5}, {2, 3, 5}, {11, 5}, {5}} {
						x := torch.Randn(s, g, torch.Float32, shape...).To(s, d)
						var wide *torch.Tensor
						if b != nil {
							wide = b.To(s, torch.Float32)
						}
						want := x.To(s, torch.Float32).Linear(s, w.To(s, torch.Float32), wide)
						got := x.PackedLinear(s, packed, b)
						require.Equal(t, want.Shape(), got.Shape())
						assert.Less(t, got.To(s, torch.Float32).Sub(s, want).Abs(s).Max(s).Item(), tolerance, "%v %v", d, shape)
					}
				}
			}
			return nil
		})
	})
	require.NoError(t, err)
}

func TestSwap(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := torch.Ones(s, torch.Float32, 2), torch.Zeros(s, torch.Int64, 3)
		require.NoError(t, s.Run(func(s *torch.Scope) error {
			c := torch.Full(s, 7, torch.Float32, 1)
			torch.Swap(a, c)
			assert.Equal(t, []float32{1, 1}, torch.ToSlice[float32](c))
			return nil
		}))
		assert.Equal(t, []float32{7}, torch.ToSlice[float32](a))
		torch.Swap(a, b)
		assert.Equal(t, []int64{0, 0, 0}, torch.ToSlice[int64](a))
		b.Free()
		assert.PanicsWithError(t, "swap: an operand was freed (by Free, or when its scope closed)", func() { torch.Swap(a, b) })
		return nil
	})
	require.NoError(t, err)
}

func TestVersion(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2)
		before := x.Version()
		x.MulScalarInPlace(s, 2)
		x.ZeroInPlace(s)
		assert.Equal(t, before+2, x.Version())
		x.MulScalar(s, 2)
		assert.Equal(t, before+2, x.Version())
		return nil
	})
	require.NoError(t, err)
}

// A product is added in place, into a view too.
func TestAddProductInPlace(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := torch.FromSlice(s, []float64{1, 2, 3, 4}, 2, 2), torch.FromSlice(s, []float64{1, 0, -1, 2, 1, 0}, 2, 3)
		sum := torch.Ones(s, torch.Float64, 2, 3, 1)
		sum.Flatten(s, 1, -1).AddProductInPlace(s, a, b, 0.5)
		require.Equal(t, []float64{3.5, 2, 0.5, 6.5, 3, -0.5}, torch.ToSlice[float64](sum))
		return nil
	}))
}

// Products give what linear layers and convolutions give, with their first and second derivatives, for one image and several, with any
// operands that require gradients, and a sum may be computed in place in their results.
func TestProduct(t *testing.T) {
	if !torch.Packs(torch.Float32) {
		t.Skip("this libtorch was built without oneDNN")
	}
	type layer func(s *torch.Scope, x, w, b *torch.Tensor) *torch.Tensor
	linear := [2]layer{
		func(s *torch.Scope, x, w, b *torch.Tensor) *torch.Tensor { return x.Product(s, w, b) },
		func(s *torch.Scope, x, w, b *torch.Tensor) *torch.Tensor { return x.Linear(s, w, b) },
	}
	conv := func(o torch.Conv2DOptions) [2]layer {
		return [2]layer{
			func(s *torch.Scope, x, w, b *torch.Tensor) *torch.Tensor { return x.ProductConv2D(s, w, b, o) },
			func(s *torch.Scope, x, w, b *torch.Tensor) *torch.Tensor { return x.Conv2D(s, w, b, o) },
		}
	}
	for name, c := range map[string]struct {
		x, w []int
		both [2]layer
	}{
		"rows":       {[]int{5, 6}, []int{4, 6}, linear},
		"batch":      {[]int{2, 5, 6}, []int{4, 6}, linear},
		"vector":     {[]int{6}, []int{4, 6}, linear},
		"no rows":    {[]int{0, 6}, []int{4, 6}, linear},
		"image":      {[]int{1, 3, 4, 5}, []int{4, 3, 3, 3}, conv(torch.Conv2DOptions{Padding: 1})},
		"images":     {[]int{3, 3, 4, 5}, []int{4, 3, 3, 3}, conv(torch.Conv2DOptions{Padding: 1})},
		"half sizes": {[]int{2, 3, 5, 4}, []int{4, 3, 3, 3}, conv(torch.Conv2DOptions{Padding: 1, Stride: 2})},
		"pixels":     {[]int{2, 3, 4, 4}, []int{4, 3, 1, 1}, conv(torch.Conv2DOptions{})},
	} {
		for _, wants := range [][3]bool{{true, false, false}, {false, true, false}, {true, true, true}, {false, false, true}, {}} {
			for _, biased := range []bool{true, false} {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 1)
					x, w, b := torch.Randn(s, g, torch.Float32, c.x...), torch.Randn(s, g, torch.Float32, c.w...), torch.Randn(s, g, torch.Float32, c.w[0])
					var leaves []*torch.Tensor
					for i, p := range []*torch.Tensor{x, w, b} {
						if wants[i] && (i < 2 || biased) {
							p.SetRequiresGrad(true)
							leaves = append(leaves, p)
						}
					}
					if !biased {
						b = nil
					}
					results := func(f layer) (all []*torch.Tensor) {
						y := f(s, x, w, b)
						all = append(all, y.Detach(s).Clone(s))
						require.Equal(t, len(leaves) > 0, y.RequiresGrad())
						y.AddInPlace(s, torch.Ones(s, torch.Float32, y.Shape()...))
						if len(leaves) == 0 {
							return all
						}
						first := torch.Grad(s, []*torch.Tensor{y.Mul(s, y).Mul(s, y).Sum(s)}, leaves, torch.BackwardOptions{CreateGraph: true})
						sum := torch.Zeros(s, torch.Float32)
						for _, one := range first {
							sum = sum.Add(s, one.Square(s).Sum(s))
						}
						all = append(all, first...)
						return append(all, torch.Grad(s, []*torch.Tensor{sum}, leaves, torch.BackwardOptions{})...)
					}
					got, want := results(c.both[0]), results(c.both[1])
					require.Len(t, got, len(want))
					for i := range want {
						require.Equal(t, want[i].Shape(), got[i].Shape())
						if want[i].NumEl() > 0 {
							size := max(1, want[i].Detach(s).Abs(s).Max(s).Item())
							require.Less(t, got[i].Detach(s).Sub(s, want[i].Detach(s)).Abs(s).Max(s).Item()/size, 1e-5, "%s %v %t: %d", name, wants, biased, i)
						}
					}
					return nil
				}))
			}
		}
	}
	// Forward-mode derivatives pass through, too.
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			x, v, w := torch.Randn(s, g, torch.Float32, 5, 6), torch.Randn(s, g, torch.Float32, 5, 6), torch.Randn(s, g, torch.Float32, 4, 6)
			_, got := torch.JVP(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor { return x[0].Product(s, w, nil) }, []*torch.Tensor{x}, []*torch.Tensor{v})
			require.Less(t, got.Sub(s, v.Linear(s, w, nil)).Abs(s).Max(s).Item(), 1e-5)
			return nil
		})
	}))
}
