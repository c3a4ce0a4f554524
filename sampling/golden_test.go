package sampling

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// toy is the denoiser of scripts/golden/sampling/samplers.py. As a Jumper it jumps by one Euler step.
type toy struct{}

func (toy) Denoise(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	v := t.Square(s).PerSample(s, x.NDim())
	curved := x.Div(s, v.AddScalar(s, 0.5).Sqrt(s)).Tanh(s).MulScalar(s, 0.8)
	return curved.Add(s, x.MulScalar(s, 0.1).Div(s, v.AddScalar(s, 1)))
}

func (d toy) Jump(s *torch.Scope, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return Euler{}.Step(s, d, x, t, next, c)
}

// points runs f with a callback that collects the points after each step, [steps, B, ...], owned by s.
func points(s *torch.Scope, o Options, f func(Options) (*torch.Tensor, error)) (*torch.Tensor, error) {
	var all []*torch.Tensor
	o.OnStep = func(_ *torch.Scope, p Step) error {
		all = append(all, p.X.Clone(s))
		return nil
	}
	if _, err := f(o); err != nil {
		return nil, err
	}
	return torch.Stack(s, all, 0), nil
}

// Every sampler's points after each step, in float64 and with noise from the same seeds, against diffusers' schedulers or,
// where diffusers lacks the sampler or it is not the paper's, the paper's formulas written out in Python. Which is which, and
// that both agree within 1e-14 where there are both, is in the script. What is chosen where they are not one:
//
//   - EDM with churn: diffusers' Euler scheduler adds the noise after the network was asked, with the network's answer for the
//     level before; its Heun scheduler has no churn. Here it is the paper's algorithm 2. The reference code also draws noise
//     in steps that add none; here streams move only where noise is added.
//   - 3M: see TestPublished3M.
//   - The CTM authors' code jumps to √(1-γ²)·(t - ε) + ε; the paper's algorithm 3, taken here, to √(1-γ²)·t.
//   - diffusers lowers the order of the last step but one of runs of less than 15 steps, unless told not to; here only a step
//     to level 0 is of first order.
//
// 1e-12: values of up to 15 with 16 digits, and some tens of operations.
func TestGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/samplers.safetensors")
		x, levels := golden["x"], torch.ToSlice[float64](golden["levels"])
		check := func(name string, f func(Options) (*torch.Tensor, error)) {
			got, err := points(s, Options{Levels: levels, Streams: noise.NewStreams(s, 11, 12)}, f)
			require.NoError(t, err, name)
			require.Contains(t, golden, name)
			torchtest.Close(t, name, got, golden[name], 1e-12, 1e-12)
		}
		samplers := map[string]Sampler{
			"edm":         StochasticHeun{Churn: 3, Min: 0.3, Max: 7, Noise: 1.05},
			"euler_a.eta": Stepwise{Eta: 0.7},
			"ddim.eta":    DDIM{Eta: 0.7},
			"ddpm.large":  Posterior{LargeVariance: true},
		}
		for _, name := range Names() {
			if _, ok := samplers[name]; !ok {
				var err error
				samplers[name], err = Named(name)
				require.NoError(t, err)
			}
		}
		for name, sampler := range samplers {
			check(name, func(o Options) (*torch.Tensor, error) { return sampler.Sample(t.Context(), s, toy{}, x, o) })
		}
		check("ctm", func(o Options) (*torch.Tensor, error) {
			return Jumps{Gamma: 0.6, SigmaMin: 0.3}.Sample(t.Context(), s, toy{}, x, o)
		})
		check("dpmpp_3m.diffusers", func(o Options) (*torch.Tensor, error) {
			return published3M{}.Sample(t.Context(), s, toy{}, x, o)
		})
		return nil
	}))
}

// published3M is DPM-Solver++(3M) as its authors' code, k-diffusion and diffusers have it: with half of the square term.
type published3M struct{}

func (published3M) Evaluations(levels []float64) int { return len(levels) - 1 }

func (published3M) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	lambda := func(i int) float64 { return -math.Log(o.Levels[i]) }
	return walk{Options: o, memory: 2, step: func(s *torch.Scope, i int, x *torch.Tensor, past []*torch.Tensor) (next, origin *torch.Tensor) {
		m0 := o.predict(s, d, x, o.Levels[i])
		if o.Levels[i+1] == 0 {
			return m0, m0
		}
		h := lambda(i+1) - lambda(i)
		e := math.Expm1(-h)
		next = x.MulScalar(s, math.Exp(-h)).Sub(s, m0.MulScalar(s, e))
		if i == 0 {
			return next, m0
		}
		r0 := (lambda(i) - lambda(i-1)) / h
		d10 := m0.Sub(s, past[0]).MulScalar(s, 1/r0)
		if i == 1 {
			return next.Sub(s, d10.MulScalar(s, e/2)), m0
		}
		r1 := (lambda(i-1) - lambda(i-2)) / h
		d11 := past[0].Sub(s, past[1]).MulScalar(s, 1/r1)
		d2 := d10.Sub(s, d11).MulScalar(s, 1/(r0+r1)) // of h²·D'' this is half
		d1 := d10.Add(s, d2.MulScalar(s, r0))
		phi2 := e/h + 1
		return next.Add(s, d1.MulScalar(s, phi2)).Sub(s, d2.MulScalar(s, phi2/h-0.5)), m0
	}}.from(ctx, s, x)
}
