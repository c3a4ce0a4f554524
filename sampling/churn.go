package sampling

import (
	"context"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// StochasticHeun is the stochastic sampler of EDM (Karras et al. 2022, algorithm 2): before each of N steps it raises the noise level
// from t to t̂ = t + γ·t by adding noise, then takes Heun's step from there. γ is min(Churn/N, √2 - 1) for levels from Min to Max,
// and 0 elsewhere. The zero value adds no noise and is Heun's method, the paper's algorithm 1.
type StochasticHeun struct {
	Churn float64 // S_churn
	Min   float64 // S_tmin
	Max   float64 // S_tmax; 0: no limit
	Noise float64 // S_noise, the standard deviation of what is added, in units of what t̂ asks for; 0: 1
}

// Sample is algorithm 2.
func (h StochasticHeun) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	return walk{Options: o, noisy: h.Churn > 0, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		t := o.Levels[i]
		up := t + h.gamma(t, len(o.Levels)-1)*t
		x = o.addNoise(s, x, h.noise()*math.Sqrt((up-t)*(up+t)))
		return o.solve(s, d, Heun{}, x, up, o.Levels[i+1])
	}}.from(ctx, s, x)
}

// Evaluations is 2 for each step, and 1 for a step to level 0.
func (h StochasticHeun) Evaluations(levels []float64) int {
	return evaluations(levels, Heun{}.Evaluations())
}

// Validate reports what cannot work.
func (h StochasticHeun) Validate() error {
	for _, v := range []struct {
		name  string
		value float64
	}{{"churn", h.Churn}, {"churn's smallest level", h.Min}, {"churn's largest level", h.Max}, {"churn's noise", h.Noise}} {
		if !(v.value >= 0) || math.IsInf(v.value, 1) {
			return fmt.Errorf("%s: want a number from 0 on, got %g", v.name, v.value)
		}
	}
	if h.Max != 0 && h.Max < h.Min {
		return fmt.Errorf("churn: want a largest level of at least the smallest, %g, or 0 for no limit, got %g", h.Min, h.Max)
	}
	return nil
}

// gamma is by what part a level is raised.
func (h StochasticHeun) gamma(t float64, steps int) float64 {
	if t < h.Min || h.Max != 0 && t > h.Max {
		return 0
	}
	return min(h.Churn/float64(steps), math.Sqrt2-1)
}

func (h StochasticHeun) noise() float64 {
	if h.Noise == 0 {
		return 1
	}
	return h.Noise
}
