package nn

import (
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// Convolutions from files give the same with packed weights as with plain ones, at whatever size comes next, for several
// goroutines at once, and after their weights were changed in place.
func TestPackedLayers(t *testing.T) {
	var plain, filed Conv2D
	opt := torch.Conv2DOptions{Padding: 1}
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) { plain = NewConv2D(p, 4, 6, 3, opt) })
	require.NoError(t, err)
	defer st.Close()
	w := save(t, maps.Collect(st.Tensors()))
	bound, err := BuildFrom(w, torch.CPU, torch.Float32, func(p Path) { filed = NewConv2D(p, 4, 6, 3, opt) })
	require.NoError(t, err)
	defer bound.Close()
	require.True(t, plain.packed.built)
	require.False(t, filed.packed.built)

	check := func(side int) {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				x := torch.Randn(s, torch.NewGenerator(s, uint64(side)), torch.Float32, 1, 4, side, side)
				got, want := filed.Forward(s, x), plain.Forward(s, x)
				require.True(t, got.IsChannelsLast())
				require.Less(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-5, "%d pixels", side)
				return nil
			})
		})
		require.NoError(t, err)
	}
	for _, side := range []int{8, 8, 5, 8} {
		check(side)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { check(4 + i%3) })
	}
	all.Wait()

	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for _, c := range []Conv2D{plain, filed} {
				c.Weight.MulScalarInPlace(s, -2)
			}
			return nil
		})
	})
	require.NoError(t, err)
	check(4)
	check(5)                                                // packed once more: the change is still there
	err = torch.Run(torch.CPU, func(s *torch.Scope) error { // with gradients
		x := torch.Ones(s, torch.Float32, 1, 4, 3, 3)
		x.SetRequiresGrad(true)
		filed.Forward(s, x).Sum(s).Backward()
		got := x.Grad(s)
		plain.Forward(s, x.Detach(s)).Sum(s)
		require.Equal(t, []int{1, 4, 3, 3}, got.Shape())
		return nil
	})
	require.NoError(t, err)
}

// A network that was built and then frozen packs its weights after Pack, in the input's type, and packs them again after a change. Calls with
// gradients use the plain ones, and do not end it.
func TestPackOfBuiltLayers(t *testing.T) {
	var c Conv2D
	var l Linear
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) {
		c, l = NewConv2D(p.Sub("c"), 4, 6, 3, torch.Conv2DOptions{Padding: 1}), NewLinear(p.Sub("l"), 4, 6)
	})
	require.NoError(t, err)
	defer st.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, rows := torch.Randn(s, g, torch.Float32, 2, 4, 8, 8), torch.Randn(s, g, torch.Float32, 200, 4)
		both := func(d torch.DType) (of [2]*torch.Tensor) {
			for i, f := range []func(s *torch.Scope) *torch.Tensor{
				func(s *torch.Scope) *torch.Tensor { return c.Forward(s, x.To(s, d)) }, func(s *torch.Scope) *torch.Tensor { return l.Forward(s, rows.To(s, d)) },
			} {
				of[i] = s.NoGradTidy(f)
				require.Equal(t, d, of[i].DType())
			}
			return of
		}
		require.Nil(t, c.packed.weight)
		st.Pack() // its weights want gradients
		want := both(torch.Float32)
		require.Nil(t, c.packed.weight)
		st.SetRequiresGrad(false)
		st.Pack()
		near := func(d torch.DType, tolerance, factor float64) {
			for i, got := range both(d) {
				require.Less(t, got.To(s, torch.Float32).Sub(s, want[i].MulScalar(s, factor)).Abs(s).Max(s).Item(), tolerance)
			}
		}
		near(torch.Float32, 1e-5, 1)
		require.NotNil(t, c.packed.weight)
		require.NotNil(t, l.packed.weight)
		if torch.Packs(torch.BFloat16) {
			near(torch.BFloat16, 0.04, 1)
			require.Equal(t, torch.BFloat16, c.packed.dtype)
		}
		x.SetRequiresGrad(true)
		c.Forward(s, x).Sum(s).Backward()
		require.NotNil(t, x.Grad(s))
		require.NotNil(t, c.packed.weight)
		x.SetRequiresGrad(false)
		_ = s.NoGrad(func(s *torch.Scope) error {
			for _, p := range st.Parameters() {
				p.MulScalarInPlace(s, 2)
			}
			return nil
		})
		near(torch.Float32, 1e-5, 2)
		st.Unpack()
		require.Nil(t, c.packed.weight)
		near(torch.Float32, 1e-5, 2)
		require.Nil(t, c.packed.weight)
		return nil
	}))
}

// Linear layers do, too, where there are rows enough.
func TestPackedLinears(t *testing.T) {
	var plain, filed Linear
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) { plain = NewLinear(p, 4, 6) })
	require.NoError(t, err)
	defer st.Close()
	w := save(t, maps.Collect(st.Tensors()))
	bound, err := BuildFrom(w, torch.CPU, torch.Float32, func(p Path) { filed = NewLinear(p, 4, 6) })
	require.NoError(t, err)
	defer bound.Close()
	for _, rows := range []int{1, 127, 128, 200, 128} {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				x := torch.Randn(s, torch.NewGenerator(s, uint64(rows)), torch.Float32, 1, rows, 4)
				got, want := filed.Forward(s, x), plain.Forward(s, x)
				require.Equal(t, want.Shape(), got.Shape())
				require.Less(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-5, "%d rows", rows)
				require.Equal(t, rows >= fewRows, filed.packed.weight != nil && filed.packed.input[0] == rows)
				return nil
			})
		})
		require.NoError(t, err)
	}
}

// A weight of another type is converted when it is packed, and for good where a plain one is needed.
func TestPackedLayersConvert(t *testing.T) {
	if !torch.Packs(torch.BFloat16) {
		t.Skip("no bfloat16 convolutions on this processor")
	}
	var c Conv2D
	st, err := Build(torch.CPU, torch.Float32, 1, func(p Path) { NewConv2D(p, 2, 2, 1, torch.Conv2DOptions{}) })
	require.NoError(t, err)
	defer st.Close()
	w := save(t, maps.Collect(st.Tensors()))
	bound, err := BuildFrom(w, torch.CPU, torch.BFloat16, func(p Path) { c = NewConv2D(p, 2, 2, 1, torch.Conv2DOptions{}) })
	require.NoError(t, err)
	defer bound.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.BFloat16, 1, 2, 2, 2)
		var packed, plain []float32
		err := s.NoGrad(func(s *torch.Scope) error {
			packed = torch.ToSlice[float32](c.Forward(s, x).To(s, torch.Float32).Contiguous(s))
			require.Equal(t, torch.Float32, c.Weight.DType())
			return nil
		})
		plain = torch.ToSlice[float32](c.Forward(s, x).To(s, torch.Float32))
		require.Equal(t, torch.BFloat16, c.Weight.DType())
		require.InDeltaSlice(t, plain, packed, 1e-2)
		return err
	})
	require.NoError(t, err)
}

// A frozen layer that is used with and without gradients holds its weight once: the file's memory, and no packed weight beside it. Memory
// is that of the allocator, which counts no mapped files.
func TestTrainedLayersAreNotPacked(t *testing.T) {
	const side, bytes = 256, 256 * 256 * 9 * 4 // of the convolution's weight
	build := func(t *testing.T) (*Store, Conv2D, Linear) {
		var c Conv2D
		var l Linear
		made := func(p Path) {
			c, l = NewConv2D(p.Sub("c"), side, side, 3, torch.Conv2DOptions{Padding: 1}), NewLinear(p.Sub("l"), side, side)
		}
		st, err := Build(torch.CPU, torch.Float32, 1, made)
		require.NoError(t, err)
		defer st.Close()
		bound, err := BuildFrom(save(t, maps.Collect(st.Tensors())), torch.CPU, torch.Float32, made)
		require.NoError(t, err)
		t.Cleanup(bound.Close)
		return bound, c, l
	}
	held := func() int64 {
		m, err := torch.CPU.Memory()
		require.NoError(t, err)
		return m.Allocated
	}
	run := func(t *testing.T, c Conv2D, l Linear, grad bool, a Adapters) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			f := func(s *torch.Scope) error {
				g := torch.NewGenerator(s, 1)
				x, rows := torch.Randn(s, g, torch.Float32, 1, side, 4, 4), torch.Randn(s, g, torch.Float32, 1, fewRows, side)
				x.SetRequiresGrad(grad)
				loss := c.Adapted(s, x, a).Sum(s).Add(s, l.Adapted(s, rows, a).Sum(s))
				if grad {
					loss.Backward()
				}
				return nil
			}
			if grad {
				return f(s)
			}
			return s.NoGrad(f)
		}))
	}
	adapters := func(t *testing.T, c Conv2D, l Linear) Adapters {
		st, err := NewStore(torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		t.Cleanup(st.Close)
		p := st.Root()
		return Adapters{
			c.Weight: {LowRank{Down: NewConv2D(p.Sub("cd"), side, 2, 3, c.Opt), Up: NewConv2D(p.Sub("cu"), 2, side, 1, torch.Conv2DOptions{}), Scale: 1}},
			l.Weight: {LowRank{Down: NewLinear(p.Sub("ld"), side, 2), Up: NewLinear(p.Sub("lu"), 2, side), Scale: 1}},
		}
	}
	t.Run("packed without gradients", func(t *testing.T) { // or the others prove nothing
		_, c, l := build(t)
		before := held()
		run(t, c, l, false, nil)
		require.Greater(t, held()-before, int64(bytes))
	})
	t.Run("gradients first", func(t *testing.T) {
		_, c, l := build(t)
		before := held()
		for _, grad := range []bool{true, false, true, false} {
			run(t, c, l, grad, nil)
			require.Equal(t, before, held(), "gradients: %t", grad)
		}
	})
	t.Run("gradients later", func(t *testing.T) {
		_, c, l := build(t)
		before := held()
		run(t, c, l, false, nil)
		run(t, c, l, true, nil)
		require.Equal(t, before, held())
		run(t, c, l, false, nil)
		require.Equal(t, before, held())
	})
	t.Run("announced, with adapters", func(t *testing.T) {
		st, c, l := build(t)
		a := adapters(t, c, l)
		st.Unpack()
		before := held()
		run(t, c, l, false, nil)
		run(t, c, l, false, a)
		run(t, c, l, false, a)
		require.Equal(t, before, held())
	})
}

// Frozen layers that gradients flow through compute by products with their weights as they are: results and gradients, of the input and of
// adapters, are those of ordinary layers with the same weights.
func TestFrozenLayers(t *testing.T) {
	if !torch.Packs(torch.Float32) {
		t.Skip("this libtorch was built without oneDNN")
	}
	const side = 352 // weights of more than largeWeight elements
	for _, stride := range []int{1, 2} {
		opt := torch.Conv2DOptions{Padding: 1, Stride: stride}
		var plain, filed Conv2D
		var rows, filedRows Linear
		build := func(c *Conv2D, l *Linear) func(p Path) {
			return func(p Path) { *c, *l = NewConv2D(p.Sub("c"), side, side, 3, opt), NewLinear(p.Sub("l"), side, 24) }
		}
		st, err := Build(torch.CPU, torch.Float32, 1, build(&plain, &rows))
		require.NoError(t, err)
		t.Cleanup(st.Close)
		bound, err := BuildFrom(save(t, maps.Collect(st.Tensors())), torch.CPU, torch.Float32, build(&filed, &filedRows))
		require.NoError(t, err)
		t.Cleanup(bound.Close)
		bound.Unpack()
		var down, up Conv2D
		var downRows, upRows Linear
		learned, err := Build(torch.CPU, torch.Float32, 2, func(p Path) {
			down, up = NewConv2DInit(p.Sub("d"), side, 2, 3, opt, Uniform(0.1), nil), NewConv2DInit(p.Sub("u"), 2, side, 1, torch.Conv2DOptions{}, Uniform(0.1), nil)
			downRows, upRows = NewLinearInit(p.Sub("dl"), side, 2, Uniform(0.1), nil), NewLinearInit(p.Sub("ul"), 2, 24, Uniform(0.1), nil)
		})
		require.NoError(t, err)
		t.Cleanup(learned.Close)
		for _, n := range []int{1, 3} {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := torch.NewGenerator(s, 1)
				x, z := torch.Randn(s, g, torch.Float32, n, side, 4, 4), torch.Randn(s, g, torch.Float32, n, 7, side)
				require.True(t, filed.packed.byPatches(filed, x, x.Shape()))
				leaves := []*torch.Tensor{x, z}
				for _, p := range leaves {
					p.SetRequiresGrad(true)
				}
				for _, p := range learned.Parameters() {
					leaves = append(leaves, p)
				}
				results := func(c Conv2D, l Linear) []*torch.Tensor {
					a := Adapters{c.Weight: {LowRank{down, up, 0.5}}, l.Weight: {LowRank{downRows, upRows, 0.5}}}
					y, yz := c.Adapted(s, x, a), l.Adapted(s, z, a)
					loss := y.Square(s).Mean(s).Add(s, yz.Square(s).Mean(s))
					return append([]*torch.Tensor{y, yz}, torch.Grad(s, []*torch.Tensor{loss}, leaves, torch.BackwardOptions{})...)
				}
				got, want := results(filed, filedRows), results(plain, rows)
				for i := range want {
					require.Equal(t, want[i].Shape(), got[i].Shape())
					size := want[i].Detach(s).Abs(s).Max(s).Item()
					require.Less(t, got[i].Detach(s).Sub(s, want[i].Detach(s)).Abs(s).Max(s).Item()/size, 1e-5, "%d of %d, stride %d", i, n, stride)
				}
				// The same without gradients.
				return s.NoGrad(func(s *torch.Scope) error {
					require.Equal(t, got[0].Detach(s).Bytes(), filed.Adapted(s, x, Adapters{filed.Weight: {LowRank{down, up, 0.5}}}).Bytes())
					return nil
				})
			}))
		}
	}
}
