package sampling

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// linear are the β of DDPM's chain (Ho et al. 2020).
func linear() []float64 {
	betas := make([]float64, 1000)
	for i := range betas {
		betas[i] = 1e-4 + float64(i)/999*(0.02-1e-4)
	}
	return betas
}

// Against the formulas of k-diffusion's schedules and diffusers' spacings; see scripts/golden_samplers.py. 1e-12: powers,
// exponentials and products of a thousand factors in float64. diffusers has flow times in float32, and 1 - τ has up to 50
// times their relative error.
func TestLevels(t *testing.T) {
	chain := func(n int) []float64 {
		levels, err := ChainLevels(linear(), n)
		require.NoError(t, err)
		return levels
	}
	sigma := func(tau float64) float64 { return tau / (1 - tau) }
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/samplers.safetensors")
		for name, got := range map[string][]float64{
			"karras":      KarrasLevels(6, 80, 0.002, 7),
			"exponential": ExponentialLevels(6, 80, 0.002),
			"vp":          VPLevels(6),
			"chain.6":     chain(6),
			"chain.7":     chain(7),
			"flow.1":      FlowLevels(6, sigma(0.98), sigma(0.02), 0),
			"flow.3":      FlowLevels(6, 3*sigma(0.98), 3*sigma(0.02), 3), // diffusers shifts the ends too
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
			"karras":       KarrasLevels(n, 80, 0.002, 7),
			"exponential":  ExponentialLevels(n, 80, 0.002),
			"flow":         FlowLevels(n, 80, 0.002, 0),
			"flow to zero": FlowLevels(n, 1e6, 0, 3),
		} {
			require.NoError(t, descending(levels), "%s, %d levels", name, n)
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
		require.NoError(t, descending(VPLevels(n)))
	}
}

func TestChainLevels(t *testing.T) {
	betas := linear()
	all, err := ChainLevels(betas, 1000)
	require.NoError(t, err)
	require.NoError(t, descending(all))
	require.InEpsilon(t, math.Sqrt(1e-4/(1-1e-4)), all[999], 1e-12, "one step of the chain")
	one, err := ChainLevels(betas, 1)
	require.NoError(t, err)
	require.Equal(t, all[:1], one)
	for _, c := range []struct {
		betas []float64
		n     int
		want  string
	}{
		{betas, 0, "noise levels: want 1 to 1000, the chain's, got 0"},
		{betas, 1001, "noise levels: want 1 to 1000, the chain's, got 1001"},
		{[]float64{0.1, 1}, 2, "noise levels: want betas between 0 and 1, got 1 at 1"},
		{[]float64{math.NaN()}, 1, "noise levels: want betas between 0 and 1, got NaN at 0"},
	} {
		_, err := ChainLevels(c.betas, c.n)
		require.EqualError(t, err, c.want)
	}
}
