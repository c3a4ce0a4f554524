package sampling

import (
	"context"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Posterior is DDPM's ancestral sampler (Ho et al. 2020, algorithm 2): each step samples from the posterior q(x_u | x_t, x_0) of the
// variance-preserving chain, with the denoiser's prediction for x_0. In terms of σ² = (1 - ᾱ)/ᾱ and x = x_VP/√ᾱ, eq. 7 is, from level t to
// u,
//
//	mean (u²/t²)·x + (1 - u²/t²)·D(x; t)        variance u²·(t² - u²)/t²
//
// The step to level 0 adds no noise.
type Posterior struct {
	// LargeVariance uses the chain's β as variance, here (1 + u²)·(t² - u²)/(1 + t²). It is optimal for data x_0 ~ N(0, 1), and the
	// posterior's variance is optimal for a single data point (Ho et al. 2020, section 3.2).
	LargeVariance bool
}

// Sample implements algorithm 2.
func (p Posterior) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	return walk{Options: o, noisy: true, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		t, u := o.Levels[i], o.Levels[i+1]
		origin = o.predict(s, d, x, t)
		if u == 0 {
			return origin, origin
		}
		variance := u * u * (t - u) * (t + u) / (t * t)
		if p.LargeVariance {
			variance = (1 + u*u) * (t - u) * (t + u) / (1 + t*t)
		}
		kept := u * u / (t * t)
		mean := x.MulScalar(s, kept).Add(s, origin.MulScalar(s, 1-kept))
		return o.addNoise(s, mean, math.Sqrt(variance)), origin
	}}.from(ctx, s, x)
}

// Evaluations returns 1 per step.
func (Posterior) Evaluations(levels []float64) int { return evaluations(levels, 1) }

// DDIM is the sampler of Song et al. 2021, eq. 12, in the same coordinates: from level t to u, with ε the predicted noise,
//
//	D(x; t) + √(u² - a²)·ε + a·z        ε = (x - D(x; t))/t        a = η·u·√(t² - u²)/t
//
// It is deterministic for η = 0, and then Euler in exact arithmetic; for η = 1 it is [Posterior].
type DDIM struct {
	Eta float64 // η, from 0 to 1
}

// Sample applies eq. 12 to each pair of consecutive levels.
func (p DDIM) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	if err := fraction("eta", p.Eta); err != nil {
		return nil, err
	}
	return walk{Options: o, noisy: p.Eta > 0, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		t, u := o.Levels[i], o.Levels[i+1]
		a := p.Eta * u * math.Sqrt((t-u)*(t+u)) / t
		origin = o.predict(s, d, x, t)
		eps := x.Sub(s, origin).DivScalar(s, t)
		next = origin.Add(s, eps.MulScalar(s, math.Sqrt((u-a)*(u+a))))
		return o.addNoise(s, next, a), origin
	}}.from(ctx, s, x)
}

// Evaluations returns 1 per step.
func (DDIM) Evaluations(levels []float64) int { return evaluations(levels, 1) }
