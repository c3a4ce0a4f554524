package models_test

import (
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// formula is a network that is a function.
type formula func(s *torch.Scope, x, noise *torch.Tensor) *torch.Tensor

func (f formula) Forward(s *torch.Scope, x, noise *torch.Tensor, _ models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return f(s, x, noise) })
}

func (formula) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

var zero = formula(func(s *torch.Scope, x, _ *torch.Tensor) *torch.Tensor { return x.MulScalar(s, 0) })

func worst(s *torch.Scope, a, b *torch.Tensor) float64 { return a.Sub(s, b).Abs(s).Max(s).Item() }

// times multiplies every sample by its own factor.
func times(s *torch.Scope, x, factor *torch.Tensor) *torch.Tensor {
	return x.Mul(s, factor.PerSample(s, x.NDim()))
}

// Gaussian data with the standard deviation σ_data: the networks F of EDM and TrigFlow are 0, TrigFlow's points stand still, and its
// consistency function is F = -tan(a/2)·y/σ_d with f = y.
func TestGaussianInTrigFlow(t *testing.T) {
	const sd = 0.5
	exact := modelstest.Gaussian{Std: sd, SigmaMin: 1e-12}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		sigma := torch.FromSlice(s, []float64{0.002, 0.0075, 0.4, 0.821, 5.315, 80})
		k := models.Trig{SigmaData: sd}
		a := k.Angle(s, sigma)
		x := times(s, torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 6, 3), sigma.AddScalar(s, sd))
		y := times(s, x, a.Cos(s))
		require.LessOrEqual(t, worst(s, k.Velocity(s, exact, y, a, models.Cond{}), torch.ZerosLike(s, y)), 1e-12)
		require.LessOrEqual(t, worst(s, (&models.TrigFlow{Net: zero}).Denoise(s, x, sigma, models.Cond{}), exact.Denoise(s, x, sigma, models.Cond{})), 1e-14)

		f := &models.TrigConsistency{Net: formula(func(s *torch.Scope, u, a *torch.Tensor) *torch.Tensor {
			return times(s, u, a.MulScalar(s, 0.5).Tan(s)).Neg(s)
		})}
		require.LessOrEqual(t, worst(s, f.OriginAt(s, y, a, models.Cond{}), y), 1e-14)
		require.LessOrEqual(t, worst(s, f.Origin(s, x, sigma, models.Cond{}), exact.Origin(s, x, sigma, models.Cond{})), 1e-13)
		return nil
	}))
}

// TrigFlow's velocity of a denoiser is the slope of the trajectories in its coordinates, also where σ_data is not the data's
// standard deviation: against central differences along exact trajectories.
func TestTrigVelocityFollowsTrajectories(t *testing.T) {
	g := modelstest.Gaussian{Mean: 0.2, Std: 0.3}
	k := models.Trig{SigmaData: 0.7}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, c := range []struct{ x, angle float64 }{{0.5, 0.1}, {-1.2, 0.8}, {60, 1.55}} {
			at := 0.7 * math.Tan(c.angle)
			y := func(angle float64) float64 { return math.Cos(angle) * g.Move(c.x, at, 0.7*math.Tan(angle)) }
			const h = 1e-6
			want := (y(c.angle+h) - y(c.angle-h)) / (2 * h)
			got := k.Velocity(s, g, torch.FromSlice(s, []float64{y(c.angle)}, 1, 1), torch.FromSlice(s, []float64{c.angle}), models.Cond{}).Item()
			require.InDelta(t, want, got, 1e-8)
		}
		return nil
	}))
}

// The EDM loss of a network that is 0, on data with the standard deviation σ_data, is 1 for each dimension at every level: by
// Monte Carlo, with 2·10⁵ draws, whose mean has the standard deviation √(2/n) = 0.003.
func TestEDMLossIsOne(t *testing.T) {
	const n, sd = 200_000, 0.5
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 7)
		for _, level := range []float64{0.002, 0.1, 0.5, 3, 80} {
			x := modelstest.Gaussian{Std: sd}.Sample(s, g, torch.Float64, n, 1)
			noisy := x.Add(s, torch.Randn(s, g, torch.Float64, n, 1).MulScalar(s, level))
			for name, d := range map[string]models.Denoiser{"edm": &models.EDM{Net: zero}, "trigflow": &models.TrigFlow{Net: zero}} {
				D := d.Denoise(s, noisy, torch.Full(s, level, torch.Float64, n), models.Cond{})
				loss := D.Sub(s, x).Square(s).Mean(s).Item() * (level*level + sd*sd) / (level * level * sd * sd)
				require.InDelta(t, 1, loss, 5*math.Sqrt(2.0/n), "%s at %g", name, level)
			}
		}
		return nil
	}))
}

// The denoiser of many draws from a Gaussian is nearly the Gaussian's own. With n draws the posterior mean, of deviation
// t·s/√(t²+s²) around it, is an average of about n·t/√(t²+s²) of them or fewer.
func TestEmpiricalOfGaussian(t *testing.T) {
	const n = 100_000
	g := modelstest.Gaussian{Mean: 0.2, Std: 0.4}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		d := &models.Empirical{Data: g.Sample(s, torch.NewGenerator(s, 1), torch.Float32, n, 1)}
		values := []float64{0.02, 0.1, 0.4, 2, 80}
		at := torch.FromSlice(s, values)
		for _, away := range []float64{0, -1.5} { // in deviations of noisy data
			x := make([]float64, len(values))
			for i, t := range values {
				x[i] = g.Mean + away*math.Hypot(t, g.Std)
			}
			noisy := torch.FromSlice(s, x, len(x), 1)
			got := torch.ToSlice[float64](d.Denoise(s, noisy, at, models.Cond{}))
			want := torch.ToSlice[float64](g.Denoise(s, noisy, at, models.Cond{}))
			for i, t0 := range values {
				deviation := t0 * g.Std / math.Hypot(t0, g.Std)
				few := n * t0 / math.Hypot(t0, g.Std) * math.Exp(-away*away/2)
				require.InDelta(t, want[i], got[i], 5*deviation/math.Sqrt(few), "level %g, %g away", t0, away)
			}
		}
		return nil
	}))
}

// The kit that every consistency function has to pass.
func TestConsistencyFunctions(t *testing.T) {
	net := formula(func(s *torch.Scope, x, noise *torch.Tensor) *torch.Tensor {
		return times(s, x, noise.To(s, x.DType()).Sin(s)).Tanh(s)
	})
	shape := modelstest.Expect{Shape: []int{2, 3, 3}}
	modelstest.Consistency(t, torch.CPU, &models.TrigConsistency{Net: net}, 0, shape)
	modelstest.Consistency(t, torch.CPU, &models.TrigConsistency{Net: &models.TrigNetwork{Model: &models.DDPM{Net: net}}, SigmaData: 0.7}, 0, shape)
	modelstest.Consistency(t, torch.CPU, &models.Trajectory{Net: net}, 0.002, shape)
	modelstest.Consistency(t, torch.CPU, &models.MeanFlow{Net: net}, 0, shape)
	// Any denoiser's network can be where a consistency function starts.
	for _, m := range []models.Parameterisation{&models.DDPM{Net: net}, &models.VP{Net: net, Predict: noise.Velocity}, &models.Flow{Net: net}, &models.TrigFlow{Net: net}} {
		modelstest.Consistency(t, torch.CPU, &models.Consistency{Net: &models.Preconditioned{Model: m}}, 0.002, shape)
	}
}
