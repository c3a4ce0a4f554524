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
	Noise float64 // S_noise, factor of the added noise's standard deviation; 0: 1
}

// Sample implements algorithm 2.
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

// Evaluations returns 2 per step, and 1 for a step to level 0.
func (h StochasticHeun) Evaluations(levels []float64) int {
	return evaluations(levels, Heun{}.Evaluations())
}

// Validate returns an error for invalid settings.
func (h StochasticHeun) Validate() error {
	for _, v := range []struct {
		name  string
		value float64
	}{{"churn", h.Churn}, {"churn: minimum noise level", h.Min}, {"churn: maximum noise level", h.Max}, {"churn: noise factor", h.Noise}} {
		if !(v.value >= 0) || math.IsInf(v.value, 1) {
			return fmt.Errorf("%s: want a finite number of at least 0, got %g", v.name, v.value)
		}
	}
	if h.Max != 0 && h.Max < h.Min {
		return fmt.Errorf("churn: want a maximum noise level of at least the minimum %g, or 0 for no limit, got %g", h.Min, h.Max)
	}
	return nil
}

// gamma returns γ at level t.
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
