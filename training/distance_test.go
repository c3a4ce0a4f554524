package training

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func TestDistances(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a := torch.FromSlice(s, []float64{1, 2, 3, 4, 0, 0, 0, 0}, 2, 1, 2, 2)
		b := torch.FromSlice(s, []float64{1, 0, 6, 4, 0, 0, 0, 0}, 2, 1, 2, 2)
		for _, c := range []struct {
			name string
			want float64
		}{
			{"l1", (0 + 2 + 3 + 0) / 4.0},
			{"l2", (4 + 9) / 4.0},
			{"norm", math.Sqrt(13+4e-12) - 2e-6},
			// Over the whole sample: element by element it would be near 5 - 4c.
			{"huber", math.Sqrt(13+0.00054*0.00054*4) - 0.00054*2},
		} {
			d, err := ParseDistance(c.name)
			require.NoError(t, err)
			got := torch.ToSlice[float64](d.Distance(s, a, b))
			assert.InDelta(t, c.want, got[0], 1e-12, c.name)
			assert.InDelta(t, 0, got[1], 1e-12, "%s of equal samples", c.name)
		}
		got := torch.ToSlice[float64](PseudoHuber{C: 2}.Distance(s, a, b))
		assert.InDelta(t, math.Sqrt(17)-2, got[0], 1e-12)
		return nil
	})
	require.NoError(t, err)
	_, err = ParseDistance("lpips")
	assert.EqualError(t, err, `unknown distance "lpips": want l1, l2, norm or huber`)
}

// The gradient of the pseudo-Huber distance at equal images must be 0, not NaN: its root is at c > 0.
func TestPseudoHuberGradientAtZero(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a := torch.Ones(s, torch.Float32, 2, 3)
		a.SetRequiresGrad(true)
		PseudoHuber{}.Distance(s, a, torch.Ones(s, torch.Float32, 2, 3)).Sum(s).Backward()
		assert.Equal(t, make([]float32, 6), torch.ToSlice[float32](a.Grad(s)))
		return nil
	})
	require.NoError(t, err)
}
