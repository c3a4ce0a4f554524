package noise

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// ulps are some last bits of a float32. libtorch computes roots and powers by libraries whose last bits differ between processors.
const ulps = 1e-6

// ᾱ is PyTorch's, to the bit on the kind of processor that the golden file was made on.
func TestAlphas(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		want, _ := torchtest.Golden(t, s, "../../sampling/scheduler/testdata/traces.safetensors")
		for k, c := range []Config{
			{}, {BetaSchedule: "linear", BetaStart: 0.0001, BetaEnd: 0.02}, {BetaSchedule: "squaredcos_cap_v2"}, {ZeroSNR: true, Predicts: Velocity},
		} {
			alphas, err := c.WithBetas(ClassBetas("LCMScheduler")).Alphas()
			require.NoError(t, err)
			w := torch.ToSlice[float32](want["alphas"].Narrow(s, 0, k, 1))
			require.Len(t, alphas, len(w), "%+v", c)
			for i := range w {
				require.InDelta(t, w[i], alphas[i], ulps*max(float64(w[i]), 1e-3), "%+v: %d", c, i)
			}
		}
		return nil
	})
	require.NoError(t, err)
	alphas, err := Config{}.WithBetas(ClassBetas("LCMScheduler")).Alphas()
	require.NoError(t, err)
	for at, want := range map[int]float64{ // as published for Stable Diffusion
		0: 0.9991499781608582, 19: 0.9822439551353455, 259: 0.6589752435684204, 499: 0.27766942977905273, 759: 0.05221289023756981,
		999: 0.00466009508818388,
	} {
		require.InEpsilon(t, want, alphas[at], ulps)
	}
}

// The chain in float64 is that in float32 but for rounding: of each 1-β to 24 bits, by at most 2^-25, and of each product. Over a
// thousand steps errors of 2^-24 that are independent grow to 2^-24·√1000, which is 2e-6; the bound is 1e-5. Where β is near 1, as the
// cosine's last ones, the rounding of 1-β counts for more: 2^-25/0.001 is 3e-5. With ZeroSNR a difference of roots is taken, of which
// rounding leaves an absolute error, 1e-6.
func TestAlphasAndChain(t *testing.T) {
	trained := make([]float64, 100)
	for i := range trained {
		trained[i] = 0.001 + 0.0005*float64(i)
	}
	for name, c := range map[string]Config{
		"linear":        {Class: "DDPMScheduler"},
		"scaled linear": {Class: "LCMScheduler"},
		"heun":          {Class: "HeunDiscreteScheduler"},
		"cosine":        {BetaSchedule: "squaredcos_cap_v2"},
		"trained":       {TrainedBetas: trained, TrainSteps: 100},
		"falling":       {BetaStart: 0.02, BetaEnd: 0.0001},
		"short":         {TrainSteps: 10, BetaSchedule: "scaled_linear", BetaStart: 0.01, BetaEnd: 0.3},
		"zero SNR":      {Class: "LCMScheduler", ZeroSNR: true, Predicts: Velocity},
		"zero linear":   {ZeroSNR: true, Predicts: Velocity},
		"zero cosine":   {BetaSchedule: "squaredcos_cap_v2", ZeroSNR: true, Predicts: Sample},
		"zero trained":  {TrainedBetas: trained, TrainSteps: 100, ZeroSNR: true, Predicts: Sample},
	} {
		t.Run(name, func(t *testing.T) {
			alphas, err := c.Alphas()
			require.NoError(t, err)
			chain, err := c.Chain()
			require.NoError(t, err)
			require.Len(t, alphas, c.Steps())
			require.Equal(t, c.Steps(), chain.Steps())
			for i, a := range alphas {
				got, want := float64(a), chain.AlphaBar(i)
				switch {
				case c.ZeroSNR && i == len(alphas)-1:
					require.Zero(t, a)
					if before := chain.AlphaBar(i - 1); before < LastAlpha {
						require.Equal(t, "zero linear", name)
						require.InEpsilon(t, before/4, want, 1e-9)
						continue
					}
					require.InEpsilon(t, math.Sqrt(1<<24-1), chain.Sigma(i), 1e-12)
				case c.ZeroSNR:
					require.InDelta(t, math.Sqrt(want), math.Sqrt(got), 1e-6, "%d", i)
				case c.BetaSchedule == "squaredcos_cap_v2":
					require.InEpsilon(t, want, got, 1e-4, "%d", i)
				default:
					require.InEpsilon(t, want, got, 1e-5, "%d", i)
				}
			}
		})
	}
	// A chain by a schedule says so.
	chain, err := Config{Class: "LCMScheduler"}.Chain()
	require.NoError(t, err)
	made, ok := chain.Made()
	require.True(t, ok)
	require.Equal(t, Betas{Schedule: ScaledLinear, Steps: 1000, First: 0.00085, Last: 0.012}, made)
	for _, c := range []Config{{ZeroSNR: true}, {TrainedBetas: []float64{0.1, 1}, TrainSteps: 2}, {BetaSchedule: "sigmoid"}} {
		_, err := c.Chain()
		require.ErrorContains(t, err, "scheduler config: ")
		_, err = c.Alphas()
		require.ErrorContains(t, err, "scheduler config: ")
	}
}
