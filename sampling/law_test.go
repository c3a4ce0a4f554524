package sampling

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// law is what a sampler makes of Gaussian data, where every step is x' - m = a·(x + b·z - m) + c·z: the factor, and the
// variances of what is added before and after.
type law func(t, u float64) (a, before, after float64)

// data has mean m and deviation s; shrink is what is left of x - m in D(x; t) - m, pull the slope over x - m.
var data = modelstest.Gaussian{Mean: 0.1, Std: 0.4}

func shrink(t float64) float64 { return data.Std * data.Std / (data.Std*data.Std + t*t) }
func pull(t float64) float64   { return (1 - shrink(t)) / t }

func posterior(t, u float64) float64 { return u * u * (t*t - u*u) / (t * t) }

// ancestry is the law of an ancestral sampler whose deterministic part has that factor from t to down.
func ancestry(eta float64, factor func(t, down float64) float64) law {
	return func(t, u float64) (a, before, after float64) {
		if u == 0 {
			return shrink(t), 0, 0
		}
		after = eta * eta * posterior(t, u)
		return factor(t, math.Sqrt(u*u-after)), 0, after
	}
}

func eulerFactor(t, u float64) float64 { return 1 + (u-t)*pull(t) }

func heunFactor(t, u float64) float64 {
	return 1 + (u-t)*(pull(t)+pull(u)*eulerFactor(t, u))/2
}

func dpm2Factor(t, u float64) float64 {
	m := math.Sqrt(t * u)
	return 1 + (u-t)*pull(m)*eulerFactor(t, m)
}

// exactFactor is the trajectory itself.
func exactFactor(t, u float64) float64 {
	return math.Hypot(data.Std, u) / math.Hypot(data.Std, t)
}

func edmLaw(e StochasticHeun, steps int) law {
	return func(t, u float64) (a, before, after float64) {
		if t >= e.Min && t <= e.Max {
			hat := t * (1 + min(e.Churn/float64(steps), math.Sqrt2-1))
			before = e.Noise * e.Noise * (hat*hat - t*t)
			t = hat
		}
		if u == 0 {
			return shrink(t), before, 0
		}
		return heunFactor(t, u), before, 0
	}
}

func ddpmLaw(large bool) law {
	return func(t, u float64) (a, before, after float64) {
		if u == 0 {
			return shrink(t), 0, 0
		}
		after = posterior(t, u)
		if large {
			after = (t*t - u*u) * (1 + u*u) / (1 + t*t)
		}
		return u*u/(t*t) + (1-u*u/(t*t))*shrink(t), 0, after
	}
}

// end is where that law takes a mean's distance from m and a standard deviation.
func (l law) end(mean, std float64, levels []float64) (float64, float64) {
	v := std * std
	for i, t := range levels[:len(levels)-1] {
		a, before, after := l(t, levels[i+1])
		mean, v = a*mean, a*a*(v+before)+after
	}
	return mean, math.Sqrt(v)
}

// exact is data as a Jumper that jumps without error.
type exact struct{ modelstest.Gaussian }

func (g exact) Jump(s *torch.Scope, x, t, next *torch.Tensor, _ models.Cond) *torch.Tensor {
	v := g.Std * g.Std
	factor := next.Square(s).AddScalar(s, v).Div(s, t.Square(s).AddScalar(s, v)).Sqrt(s)
	return x.SubScalar(s, g.Mean).Mul(s, factor.PerSample(s, x.NDim())).AddScalar(s, g.Mean)
}

// The mean and the deviation of 40,000 elements after 12 steps, against the law of the sampler on Gaussian data, from starts
// that are off the data's law. 4.5 standard errors.
func TestStochasticLaws(t *testing.T) {
	const n, mean, std = 40_000, 3, 70 // of the start, less the data's mean
	edm := StochasticHeun{Churn: 4, Min: 0.05, Max: 50, Noise: 1.003}
	levels := descent(12)
	sample := func(sampler Sampler) func(*torch.Scope, *torch.Tensor, Options) (*torch.Tensor, error) {
		return func(s *torch.Scope, x *torch.Tensor, o Options) (*torch.Tensor, error) {
			return sampler.Sample(t.Context(), s, data, x, o)
		}
	}
	ctm := func(gamma float64) func(*torch.Scope, *torch.Tensor, Options) (*torch.Tensor, error) {
		return func(s *torch.Scope, x *torch.Tensor, o Options) (*torch.Tensor, error) {
			return Jumps{Gamma: gamma}.Sample(t.Context(), s, exact{data}, x, o)
		}
	}
	ctmLaw := func(gamma float64) law {
		return func(t, u float64) (a, before, after float64) {
			down := math.Sqrt(1-gamma*gamma) * u
			if u <= 0.002 {
				down = u
			}
			return exactFactor(t, down), 0, u*u - down*down
		}
	}
	for _, c := range []struct {
		name   string
		sample func(*torch.Scope, *torch.Tensor, Options) (*torch.Tensor, error)
		law    law
		zero   bool // end at level 0
	}{
		{"Euler ancestral", sample(Stepwise{Eta: 1}), ancestry(1, eulerFactor), false},
		{"Euler, half ancestral", sample(Stepwise{Eta: 0.5}), ancestry(0.5, eulerFactor), false},
		{"DPM-2 ancestral", sample(Stepwise{Solver: DPM2{}, Eta: 1}), ancestry(1, dpm2Factor), true},
		{"Heun ancestral", sample(Stepwise{Solver: Heun{}, Eta: 0.8}), ancestry(0.8, heunFactor), false},
		{"DDPM", sample(Posterior{}), ddpmLaw(false), true},
		{"DDPM, large variance", sample(Posterior{LargeVariance: true}), ddpmLaw(true), false},
		{"DDIM", sample(DDIM{Eta: 0.6}), ancestry(0.6, eulerFactor), false},
		{"EDM", sample(edm), edmLaw(edm, 11), false},
		{"EDM to 0", sample(edm), edmLaw(edm, 12), true},
		{"CTM", ctm(0.5), ctmLaw(0.5), false},
		{"CTM, nearly new noise", ctm(0.99), ctmLaw(0.99), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			levels := levels
			if c.zero {
				levels = append(levels[:len(levels):len(levels)], 0)
			}
			wantMean, wantStd := c.law.end(mean, std, levels)
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 2, n/2)
				x = x.MulScalar(s, std).AddScalar(s, data.Mean+mean)
				out, err := c.sample(s, x, Options{Levels: levels, Streams: noise.NewStreams(s, 2, 3)})
				require.NoError(t, err)
				gotMean, gotStd := out.Mean(s).Item()-data.Mean, out.Std(s, 0).Item()
				t.Logf("mean %.4f, want %.4f; deviation %.4f, want %.4f", gotMean, wantMean, gotStd, wantStd)
				require.InDelta(t, wantMean, gotMean, 4.5*wantStd/math.Sqrt(n))
				require.InEpsilon(t, wantStd, gotStd, 4.5/math.Sqrt(2*n))
				return nil
			}))
		})
	}
}

// With many levels each law is the data's, from where noise of 80 has left it.
func TestStochasticLawsEndAtTheData(t *testing.T) {
	edm := StochasticHeun{Churn: 40, Min: 0.05, Max: 50, Noise: 1}
	levels := descent(1001)
	for name, l := range map[string]law{
		"Euler ancestral": ancestry(1, eulerFactor),
		"DPM-2 ancestral": ancestry(1, dpm2Factor),
		"DDPM":            ddpmLaw(false),
		"DDPM, large":     ddpmLaw(true),
		"DDIM":            ancestry(0.6, eulerFactor),
		"EDM":             edmLaw(edm, 1000),
	} {
		mean, std := l.end(1, 80, levels)
		require.InDelta(t, 0, mean, 0.01, name)
		require.InEpsilon(t, data.Std, std, 0.02, name)
	}
}
