package modelstest

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// The closed forms solve their equations: D is the posterior mean found by numerical integration, f carries the trajectory
// that a fine Runge-Kutta integration of dx/dt = (x - D(x; t))/t follows, and f is constant along it.
func TestGaussianClosedForms(t *testing.T) {
	for _, g := range []Gaussian{{}, {Mean: -0.3, Std: 0.2, SigmaMin: 0.01}} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			denoise := func(x, t float64) float64 {
				return g.Denoise(s, torch.FromSlice(s, []float64{x}), torch.FromSlice(s, []float64{t}), models.Cond{}).Item()
			}
			origin := func(x, t float64) float64 {
				return g.Origin(s, torch.FromSlice(s, []float64{x}), torch.FromSlice(s, []float64{t}), models.Cond{}).Item()
			}
			for _, at := range []struct{ x, t float64 }{{0.4, 0.05}, {-1.1, 0.9}, {60, 80}} {
				require.InDelta(t, posterior(g, at.x, at.t), denoise(at.x, at.t), 1e-9)
				const n = 4000
				x, step := at.x, math.Log(g.sigmaMin()/at.t)/n
				slope := func(x, u float64) float64 { return x - denoise(x, math.Exp(u)) } // dx/d(ln t)
				for i := range n {
					u := math.Log(at.t) + float64(i)*step
					a := slope(x, u)
					b := slope(x+step/2*a, u+step/2)
					x += step * b
					if i == n/2 {
						require.InDelta(t, origin(at.x, at.t), origin(x, math.Exp(u+step)), 1e-5, "f along the trajectory")
						require.InDelta(t, x, g.Move(at.x, at.t, math.Exp(u+step)), 1e-4)
					}
				}
				require.InDelta(t, x, origin(at.x, at.t), 1e-5)
				require.InDelta(t, x, g.Move(at.x, at.t, g.sigmaMin()), 1e-5)
			}
			return nil
		}))
	}
}

// posterior is E[x0 | x] by the trapezoidal rule.
func posterior(g Gaussian, x, t float64) float64 {
	var weight, sum float64
	for i := -20000; i <= 20000; i++ {
		x0 := g.Mean + g.std()*float64(i)/2000 // ten standard deviations each way
		a, b := (x0-g.Mean)/g.std(), (x-x0)/t
		w := math.Exp(-a*a/2 - b*b/2 + math.Pow(x-g.Mean, 2)/2/(g.std()*g.std()+t*t))
		weight += w
		sum += w * x0
	}
	return sum / weight
}

func TestGaussianSample(t *testing.T) {
	g := Gaussian{Mean: 2, Std: 0.3}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := g.Sample(s, torch.NewGenerator(s, 1), torch.Float64, 100_000)
		mean := x.Mean(s).Item()
		require.InDelta(t, 2, mean, 5*0.3/math.Sqrt(1e5))
		require.InDelta(t, 0.3, math.Sqrt(x.SubScalar(s, mean).Square(s).Mean(s).Item()), 5*0.3/math.Sqrt(2e5))
		return nil
	}))
}

// A network that is exact for Gaussian data: F = 0 when the data's deviation is σ_data. Preconditioning around it gives
// the oracle's denoiser.
func TestGaussianAgreesWithPreconditioning(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		at := torch.FromSlice(s, []float64{0.002, 0.7, 80})
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 3, 5)
		got := (&models.EDM{Net: zero{}}).Denoise(s, x, at, models.Cond{})
		require.InDelta(t, 0, got.Sub(s, Gaussian{}.Denoise(s, x, at, models.Cond{})).Abs(s).Max(s).Item(), 1e-15)
		return nil
	}))
	Consistency(t, torch.CPU, &models.Consistency{Net: zero{}}, 0.002, Expect{Shape: []int{2, 3, 3}})
	Consistency(t, torch.CPU, &models.Consistency{Net: zero{}, Boundary: models.AtZero}, 0, Expect{Shape: []int{4}})
}
