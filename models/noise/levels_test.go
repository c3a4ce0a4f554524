package noise

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// falling tells whether levels fall, and none is negative.
func falling(levels []float64) bool {
	for i, t := range levels {
		if !(t >= 0) || i > 0 && t >= levels[i-1] {
			return false
		}
	}
	return len(levels) > 0
}

// Against the formulas of k-diffusion's schedules and diffusers' spacings; see scripts/golden/sampling/samplers.py. 1e-12: powers,
// exponentials and products of a thousand factors in float64. diffusers has flow times in float32, and 1 - τ has up to 50
// times their relative error.
func TestLevels(t *testing.T) {
	chain := func(n int) []float64 {
		levels, err := Default().Levels(n)
		require.NoError(t, err)
		return levels
	}
	sigma := func(tau float64) float64 { return tau / (1 - tau) }
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "../../sampling/testdata/samplers.safetensors")
		for name, got := range map[string][]float64{
			"karras":      Karras(6, 80, 0.002, 7),
			"exponential": Exponential(6, 80, 0.002),
			"vp":          VP{}.Levels(6),
			"chain.6":     chain(6),
			"chain.7":     chain(7),
			"flow.1":      Flow(6, sigma(0.98), sigma(0.02), 0),
			"flow.3":      Flow(6, 3*sigma(0.98), 3*sigma(0.02), 3), // diffusers shifts the ends too
		} {
			require.Contains(t, golden, "levels."+name)
			want := torch.ToSlice[float64](golden["levels."+name])
			require.Len(t, got, len(want), name)
			tolerance := 1e-12
			if strings.HasPrefix(name, "flow") {
				tolerance = 1e-5
			}
			for i := range want {
				require.InEpsilon(t, want[i], got[i], tolerance, "%s, level %d", name, i)
			}
		}
		return nil
	}))
}

func TestLevelsAreUsable(t *testing.T) {
	for n := 1; n < 30; n++ {
		for name, levels := range map[string][]float64{
			"karras":       Karras(n, 80, 0.002, 7),
			"exponential":  Exponential(n, 80, 0.002),
			"flow":         Flow(n, 80, 0.002, 0),
			"flow to zero": Flow(n, 1e6, 0, 3),
		} {
			require.True(t, falling(levels), "%s, %d levels", name, n)
			require.Len(t, levels, n)
			hi, lo := 80.0, 0.002
			if name == "flow to zero" {
				hi, lo = 1e6, 0
			}
			require.Equal(t, hi, levels[0])
			if n > 1 {
				require.Equal(t, lo, levels[n-1])
			}
		}
		require.True(t, falling(VP{}.Levels(n)))
	}
}

func TestChainLevels(t *testing.T) {
	chain := Default()
	all, err := chain.Levels(1000)
	require.NoError(t, err)
	require.True(t, falling(all))
	require.InEpsilon(t, math.Sqrt(1e-4/(1-1e-4)), all[999], 1e-12, "one step of the chain")
	one, err := chain.Levels(1)
	require.NoError(t, err)
	require.Equal(t, all[:1], one)
	for _, n := range []int{0, 1001} {
		_, err := chain.Levels(n)
		require.ErrorContains(t, err, fmt.Sprint("got ", n))
	}
}
