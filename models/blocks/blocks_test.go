package blocks

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// SiLU uses its input up: in the input's memory without gradients, and with them the input is freed and has its derivative.
func TestSiLU(t *testing.T) {
	values := []float64{-20, -1, 0, 0.5, 20}
	silu := func(v float64) float64 { return v / (1 + math.Exp(-v)) }
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, values)
		x.SetRequiresGrad(true)
		used := x.MulScalar(s, 1)
		y := SiLU(s, used)
		require.True(t, used.Freed())
		y.Sum(s).Backward()
		got, slope := torch.ToSlice[float64](y.Detach(s)), torch.ToSlice[float64](x.Grad(s))
		for i, v := range values {
			require.InDelta(t, silu(v), got[i], 1e-15)
			require.InDelta(t, (silu(v+1e-5)-silu(v-1e-5))/2e-5, slope[i], 1e-9)
		}
		return s.NoGrad(func(s *torch.Scope) error {
			x := torch.FromSlice(s, values)
			require.Same(t, x, SiLU(s, x))
			require.Equal(t, got, torch.ToSlice[float64](x))
			return nil
		})
	}))
}

func TestRelease(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		before := torch.Live()
		x := torch.Ones(s, torch.Float32, 3)
		y := Release(x.MulScalar(s, 2), x)
		require.True(t, x.Freed())
		require.Equal(t, []float32{2, 2, 2}, torch.ToSlice[float32](y))
		require.EqualValues(t, before+1, torch.Live())
		return nil
	}))
}
