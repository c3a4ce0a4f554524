package torch_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

var drawSizes = [][]int{{1}, {5}, {15}, {16}, {17}, {40}, {3, 7}}

// CPU draws are PyTorch's bit for bit: several in a row, on both sides of 16 elements, where libtorch changes its method.
func TestDrawsEqualPyTorch(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		want, _ := torchtest.Golden(t, s, "testdata/random.safetensors")
		equal := func(name string, got *torch.Tensor) {
			t.Helper()
			require.Contains(t, want, name)
			require.Equal(t, want[name].DType(), got.DType(), name)
			require.Equal(t, want[name].Shape(), got.Shape(), name)
			require.True(t, bytes.Equal(want[name].Bytes(), got.Bytes()), "%s: got %v, want %v", name, got, want[name])
		}
		for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Float16, torch.BFloat16} {
			for name, f := range map[string]func(*torch.Scope, *torch.Generator, torch.DType, ...int) *torch.Tensor{"randn": torch.Randn, "rand": torch.Rand} {
				g := torch.NewGenerator(s, 1234)
				for i, size := range drawSizes {
					equal(fmt.Sprintf("%s.%s.%d", name, d, i), f(s, g, d, size...))
				}
			}
		}
		g := torch.NewGenerator(s, 99)
		weights := torch.Arange(s, 8, torch.Float32).AddScalar(s, 1)
		for i, size := range drawSizes {
			equal(fmt.Sprintf("randint.%d", i), torch.Randint(s, g, -3, 1000, torch.Int64, size...))
			equal(fmt.Sprintf("randperm.%d", i), torch.Randperm(s, g, size[0]+3))
			equal(fmt.Sprintf("multinomial.%d", i), weights.Multinomial(s, g, size[0], true))
			equal(fmt.Sprintf("bernoulli.%d", i), torch.Zeros(s, torch.Float32, size...).Bernoulli(s, 0.3, g))
			x := torch.Zeros(s, torch.Float32, size...)
			x.NormalInPlace(s, 1, 2, g)
			equal(fmt.Sprintf("normal.%d", i), x)
			x.UniformInPlace(s, -1, 3, g)
			equal(fmt.Sprintf("uniform.%d", i), x)
		}
		require.Equal(t, torch.ToSlice[uint8](want["state"]), g.State())

		state := g.State()
		a := torch.ToSlice[float32](torch.Randn(s, g, torch.Float32, 9))
		require.NoError(t, g.SetState(state))
		require.Equal(t, a, torch.ToSlice[float32](torch.Randn(s, g, torch.Float32, 9)))
		require.ErrorContains(t, g.SetState(state[:7]), "generator state of 7 bytes")
		g.Seed(99)
		require.Equal(t, torch.ToSlice[int64](want["randint.0"]), torch.ToSlice[int64](torch.Randint(s, g, -3, 1000, torch.Int64, 1)))
		return nil
	}))
}

func TestDropout(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 10_000)
		require.Same(t, x, x.Dropout(s, 0.5, nil), "no stream: evaluation")
		a := x.Dropout(s, 0.25, torch.NewGenerator(s, 3))
		require.InDelta(t, 0.25, a.EqScalar(s, 0).To(s, torch.Float32).Mean(s).Item(), 0.02)
		require.InDelta(t, 1, a.Mean(s).Item(), 0.03)
		require.InDelta(t, 4.0/3, a.Max(s).Item(), 1e-6)
		b := x.MulScalar(s, 5).Dropout(s, 0.25, torch.NewGenerator(s, 3))
		require.Equal(t, torch.ToSlice[bool](a.EqScalar(s, 0)), torch.ToSlice[bool](b.EqScalar(s, 0)), "equal streams, equal masks")
		return nil
	}))
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		torch.Ones(s, torch.Float32, 1).Dropout(s, 1, torch.NewGenerator(s, 1))
		return nil
	})
	require.ErrorContains(t, err, "probability in [0, 1)")
	err = torch.Run(torch.CPU, func(s *torch.Scope) error { torch.Randn(s, nil, torch.Float32, 1); return nil })
	require.ErrorContains(t, err, "the generator is nil")
}
