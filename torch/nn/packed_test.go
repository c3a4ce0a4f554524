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
	require.Nil(t, plain.packed)
	require.NotNil(t, filed.packed)

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
