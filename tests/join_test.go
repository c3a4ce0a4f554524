package tests

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
)

// latent is a tiny Stable Diffusion U-Net in float64, where only mistakes are left, with text features for two samples and the chain of its
// scheduler.
type latent struct {
	net        *unet.UNet
	chain      *noise.Chain
	text, null *torch.Tensor // [2, 7, W] and [1, 7, W]
}

func newLatent(t *testing.T, s *torch.Scope, seed uint64) latent {
	t.Helper()
	m, err := tinysd.Model("sd15")
	require.NoError(t, err)
	config, err := unet.ParseConfig(m.UNet.Config)
	require.NoError(t, err)
	net, err := unet.From(config, sdtest.Filled(unet.Shapes(config)), torch.CPU, torch.Float64)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain() // as in the model's scheduler_config.json
	require.NoError(t, err)
	g := torch.NewGenerator(s, seed)
	width := config.CrossAttentionDim[0]
	return latent{net, chain, torch.Randn(s, g, torch.Float64, 2, 7, width), torch.Randn(s, g, torch.Float64, 1, 7, width)}
}

func (l latent) denoiser() *models.DDPM { return &models.DDPM{Net: l.net, Chain: l.chain} }

// timestep is where ln σ lies among the chain's, written out: linear between neighbours.
func (l latent) timestep(sigma float64) float64 {
	n := l.chain.Steps()
	switch {
	case sigma <= l.chain.Sigma(0):
		return 0
	case sigma >= l.chain.Sigma(n-1):
		return float64(n - 1)
	}
	i := 0
	for l.chain.Sigma(i+1) < sigma {
		i++
	}
	low, high := math.Log(l.chain.Sigma(i)), math.Log(l.chain.Sigma(i+1))
	return float64(i) + (math.Log(sigma)-low)/(high-low)
}

// noiseOf is the raw network's prediction of the noise in x [n, ...] at one noise level, with guidance from two calls.
func (l latent) noiseOf(s *torch.Scope, x, text *torch.Tensor, sigma, scale float64) *torch.Tensor {
	in := x.DivScalar(s, math.Sqrt(1+sigma*sigma))
	at := torch.FromSlice(s, []float64{l.timestep(sigma)})
	with := l.net.Forward(s, in, at, models.Cond{Text: text})
	none := l.net.Forward(s, in, at, models.Cond{Text: l.null.Expand(s, text.Shape()...)})
	return none.Add(s, with.Sub(s, none).MulScalar(s, scale))
}

// A Stable Diffusion network is a denoiser like any other: sampling's solvers over σ draw with text and guidance what the same loop
// does over the raw network.
func TestStableDiffusionInSigmaSpace(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			l := newLatent(t, s, 1)
			const scale = 3
			guided := &models.Guided{Model: l.denoiser(), Null: models.Cond{Text: l.null}, Scale: scale}
			require.NoError(t, guided.Validate())
			levels := append(noise.Karras(5, 0.03, 14, 7), 0)
			for i, j := 0, 4; i < j; i, j = i+1, j-1 {
				levels[i], levels[j] = levels[j], levels[i]
			}
			start := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, 2, 4, 8, 8).MulScalar(s, levels[0])

			want := start
			for i, sigma := range levels[:5] {
				next := levels[i+1]
				d1 := l.noiseOf(s, want, l.text, sigma, scale) // (x - D)/σ is the noise
				euler := want.Add(s, d1.MulScalar(s, next-sigma))
				if next == 0 {
					want = euler
					break
				}
				d2 := l.noiseOf(s, euler, l.text, next, scale)
				want = want.Add(s, d1.Add(s, d2).MulScalar(s, (next-sigma)/2))
			}
			got, err := sampling.ODE(t.Context(), s, guided, sampling.Heun{}, start, levels, models.Cond{Text: l.text})
			require.NoError(t, err)
			requireNear(t, s, want, got, 1e-9)

			other, err := sampling.ODE(t.Context(), s, guided, sampling.Heun{}, start, levels, models.Cond{Text: l.text.Neg(s)})
			require.NoError(t, err)
			require.Greater(t, other.Sub(s, got).Abs(s).Max(s).Item(), 1e-3, "the text makes no difference")
			return nil
		})
	}))
}

func requireNear(t *testing.T, s *torch.Scope, want, got *torch.Tensor, tolerance float64) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape())
	require.LessOrEqual(t, got.Sub(s, want).Abs(s).Max(s).Item(), tolerance*want.Abs(s).Max(s).Item())
}

// It is distilled like any other, too, with the batch's text: the loss at given levels is the one of raw calls, and falls.
func TestStableDiffusionIsDistilled(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		teacher, student := newLatent(t, s, 1), newLatent(t, s, 1)
		student.net.Store().SetRequiresGrad(true)
		const scale, least, sigmaData = 3, 0.03, 0.5
		cd := &training.CD{
			CT: training.CT{
				Model:    &models.Consistency{Net: &models.Preconditioned{Model: student.denoiser()}, SigmaMin: least},
				Schedule: training.Doubling{S0: 10, S1: 10, Steps: 3}, Distance: training.L2{}, SigmaMax: 14,
			},
			Teacher: &models.Guided{Model: teacher.denoiser(), Null: models.Cond{Text: teacher.null}, Scale: scale},
			Solver:  sampling.Heun{},
		}
		require.NoError(t, cd.Validate())
		g := torch.NewGenerator(s, 3)
		b := training.Batch{X: torch.Randn(s, g, torch.Float64, 2, 4, 8, 8), Cond: models.Cond{Text: teacher.text}}
		z := torch.Randn(s, g, torch.Float64, 2, 4, 8, 8)
		low, high := []float64{0.4, 6}, []float64{0.7, 9}
		loss := func() float64 {
			v := 0.0
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error { v = cd.LossAt(s, b, low, high, z, 1).Item(); return nil }))
			return v
		}

		// By hand, sample by sample, over raw calls.
		want := 0.0
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			origin := func(x, text *torch.Tensor, sigma float64) *torch.Tensor {
				in := x.DivScalar(s, math.Sqrt(1+sigma*sigma))
				at := torch.FromSlice(s, []float64{student.timestep(sigma)})
				d := x.Sub(s, student.net.Forward(s, in, at, models.Cond{Text: text}).MulScalar(s, sigma))
				// F = (D - c_skip·x)/c_out of EDM's form, in the consistency function's.
				v, shifted := sigma*sigma+sigmaData*sigmaData, sigma-least
				edmSkip, edmOut := sigmaData*sigmaData/v, sigma*sigmaData/math.Sqrt(v)
				skip, out := sigmaData*sigmaData/(shifted*shifted+sigmaData*sigmaData), sigmaData*shifted/math.Sqrt(v)
				f := d.Sub(s, x.MulScalar(s, edmSkip)).DivScalar(s, edmOut)
				return x.MulScalar(s, skip).Add(s, f.MulScalar(s, out))
			}
			for i := range 2 {
				row := func(v *torch.Tensor) *torch.Tensor { return v.Narrow(s, 0, i, 1) }
				text := row(teacher.text)
				x := row(b.X).Add(s, row(z).MulScalar(s, high[i]))
				d1 := teacher.noiseOf(s, x, text, high[i], scale)
				euler := x.Add(s, d1.MulScalar(s, low[i]-high[i]))
				d2 := teacher.noiseOf(s, euler, text, low[i], scale)
				lower := x.Add(s, d1.Add(s, d2).MulScalar(s, (low[i]-high[i])/2))
				difference := origin(x, text, high[i]).Sub(s, origin(lower, text, low[i]))
				want += difference.Square(s).Mean(s).Item() / 2
			}
			return nil
		}))
		first := loss()
		require.InEpsilon(t, want, first, 1e-9)

		adam, err := optim.Adam{LR: 1e-3}.New(student.net.Parameters())
		require.NoError(t, err)
		defer adam.Close()
		for k := range 3 {
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				adam.ZeroGrad()
				cd.LossAt(s, b, low, high, z, 1).Backward()
				adam.Step(s)
				cd.Update(s, k)
				require.Positive(t, cd.Loss(s, k, b, training.Draw(1, k, int64(2*k), 2)).Item())
				return nil
			}))
		}
		require.Less(t, loss(), first)
		return nil
	}))
}

// Over LCM's boundary it is distilled, too: latent consistency distillation (Luo et al. 2023), whose student is a Latent of the same
// network, whose teacher is guided by the batch's text, and whose target follows. The loss is the one of raw calls.
func TestLatentConsistencyIsDistilled(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		teacher, student, target := newLatent(t, s, 1), newLatent(t, s, 1), newLatent(t, s, 1)
		student.net.Store().SetRequiresGrad(true)
		const scale, scaling, decay = 3, 10, 0.9
		least, most := teacher.chain.Sigma(0), teacher.chain.Sigma(teacher.chain.Steps()-1)
		cd := &training.CD{
			CT: training.CT{
				Model: &models.Latent{Model: student.denoiser()}, Target: &models.Latent{Model: target.denoiser()},
				Schedule: training.Fixed{Levels: 10, Decay: decay}, Distance: training.L2{},
			},
			Teacher: &models.Guided{Model: teacher.denoiser(), Null: models.Cond{Text: teacher.null}, Scale: scale},
			Solver:  sampling.Euler{}, // DDIM
		}
		require.NoError(t, cd.Validate())
		g := torch.NewGenerator(s, 3)
		b := training.Batch{X: torch.Randn(s, g, torch.Float64, 2, 4, 8, 8), Cond: models.Cond{Text: teacher.text}}
		z := torch.Randn(s, g, torch.Float64, 2, 4, 8, 8)
		low, high := []float64{least, 6}, []float64{0.7, most} // the ends of the chain, too
		loss := func() (v float64) {
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error { v = cd.LossAt(s, b, low, high, z, 1).Item(); return nil }))
			return v
		}
		byHand := func() (want float64) {
			origin := func(s *torch.Scope, l latent, x, text *torch.Tensor, sigma float64) *torch.Tensor {
				y := x.DivScalar(s, math.Sqrt(1+sigma*sigma)) // √ᾱ·x
				step := l.timestep(sigma)
				d := x.Sub(s, l.net.Forward(s, y, torch.FromSlice(s, []float64{step}), models.Cond{Text: text}).MulScalar(s, sigma))
				root := math.Sqrt(scaling*step*scaling*step + 0.25)
				return y.MulScalar(s, 0.25/(root*root)).Add(s, d.MulScalar(s, scaling*step/root))
			}
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				for i := range 2 {
					row := func(v *torch.Tensor) *torch.Tensor { return v.Narrow(s, 0, i, 1) }
					text := row(teacher.text)
					x := row(b.X).Add(s, row(z).MulScalar(s, high[i]))
					lower := x.Add(s, teacher.noiseOf(s, x, text, high[i], scale).MulScalar(s, low[i]-high[i]))
					difference := origin(s, student, x, text, high[i]).Sub(s, origin(s, target, lower, text, low[i]))
					want += difference.Square(s).Mean(s).Item() / 2
				}
				return nil
			}))
			return want
		}
		require.InEpsilon(t, byHand(), loss(), 1e-9)

		// The levels of a run are the chain's, from its first to its last.
		seen := map[float64]bool{}
		d := training.Draw(1, 0, 0, 2)
		d.Observe = func(levels []float64, _ *torch.Tensor) {
			for _, v := range levels {
				seen[v] = true
				require.LessOrEqual(t, v, most*(1+1e-9))
				require.Greater(t, v, least)
			}
		}
		adam, err := optim.Adam{LR: 1e-3}.New(student.net.Parameters())
		require.NoError(t, err)
		defer adam.Close()
		first := loss()
		for k := range 3 {
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				adam.ZeroGrad()
				cd.LossAt(s, b, low, high, z, 1).Backward()
				adam.Step(s)
				require.NoError(t, s.NoGrad(func(s *torch.Scope) error { cd.Update(s, k); return nil }))
				require.Positive(t, cd.Loss(s, k, b, d).Item())
				return nil
			}))
		}
		require.NotEmpty(t, seen)
		require.InEpsilon(t, byHand(), loss(), 1e-9, "with the target behind the student")
		require.Less(t, loss(), first)
		metadata, err := cd.Metadata(3, 6)
		require.NoError(t, err)
		require.Empty(t, metadata, "no file of this kind holds it")
		return nil
	}))
}
