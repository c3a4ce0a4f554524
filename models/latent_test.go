package models

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// At step 0 the function is y = √ᾱ_0·x whatever the network predicts; at others it is the formula of the paper over x̂_0 of the denoiser,
// computed here in plain numbers. 1e-9: the step of a level is interpolated in logarithms.
func TestLatent(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
		require.NoError(t, err)
		x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float64, 2, 3)
		answer := torch.Randn(s, torch.NewGenerator(s, 4), torch.Float64, 2, 3)
		for _, predicts := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
			for _, scaling := range []float64{0, 10, 0.01} {
				net := &told{answer: answer}
				f := &Latent{Model: &DDPM{Net: net, Chain: chain, Predict: predicts}, Scaling: scaling}
				require.NoError(t, f.Validate())
				kappa := scaling
				if kappa == 0 {
					kappa = 10
				}
				for _, steps := range [][2]int{{0, 0}, {1, 19}, {500, 999}} {
					levels := torch.FromSlice(s, []float64{chain.Sigma(steps[0]), chain.Sigma(steps[1])})
					got := torch.ToSlice[float64](f.Origin(s, x, levels, Cond{}))
					clean := torch.ToSlice[float64](f.Model.Denoise(s, x, levels, Cond{}))
					for i, v := range torch.ToSlice[float64](x) {
						n := steps[i/3]
						y, at := v*math.Sqrt(chain.AlphaBar(n)), kappa*float64(n)
						want := 0.25/(at*at+0.25)*y + at/math.Sqrt(at*at+0.25)*clean[i]
						require.InDelta(t, want, got[i], 1e-9*max(1, math.Abs(want)), "%v, scaling %g, step %d", predicts, scaling, n)
						require.InDelta(t, y*math.Sqrt(1+chain.Sigma(n)*chain.Sigma(n)), v, 1e-12)
						require.InDelta(t, y, net.x[i], 1e-12, "the network sees y")
						require.InDelta(t, float64(n), net.noise[i/3], 1e-9)
						if n == 0 {
							require.InDelta(t, y, got[i], 1e-9)
						}
					}
					// The same in the chain's own coordinates, where the boundary is exact.
					root := torch.FromSlice(s, []float64{math.Sqrt(chain.AlphaBar(steps[0])), math.Sqrt(chain.AlphaBar(steps[1]))})
					y := x.MulPerSample(s, root)
					own := torch.ToSlice[float64](f.Forward(s, y, steps[:], Cond{}))
					require.InDeltaSlice(t, got, own, 1e-8)
					require.Equal(t, []float64{float64(steps[0]), float64(steps[1])}, net.noise)
					if steps[0] == 0 {
						require.Equal(t, torch.ToSlice[float64](y), own)
					}
				}
			}
		}
		// With whole steps the network does not count at the boundary, even if the level was rounded to float32.
		f := &Latent{Model: &DDPM{Net: &told{answer: answer}, Chain: chain, Nearest: true}}
		x = torch.Ones(s, torch.Float64, 2, 3)
		got := torch.ToSlice[float64](f.Origin(s, x, torch.Full(s, chain.Sigma(0), torch.Float32, 1).To(s, torch.Float64), Cond{}))
		for _, v := range got {
			require.InDelta(t, math.Sqrt(chain.AlphaBar(0)), v, 1e-8)
		}
		return nil
	}))
	for _, f := range []*Latent{{}, {Model: &DDPM{}}, {Model: &DDPM{Net: &told{}}, Scaling: -1}, {Model: &DDPM{Net: &told{}}, Scaling: math.NaN()}} {
		require.Error(t, f.Validate())
	}
}
