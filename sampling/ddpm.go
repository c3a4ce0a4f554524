package sampling

import (
	"context"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Posterior is DDPM's sampler (Ho et al. 2020, algorithm 2): each step draws from the posterior q(x_u | x_t, x_0) of the
// variance-preserving chain with the denoiser's prediction in x_0's place. Of that chain's ᾱ and points only
// σ² = (1 - ᾱ)/ᾱ and x = x_VP/√ᾱ are left, so that eq. 7 becomes, from level t to u,
//
//	mean (u²/t²)·x + (1 - u²/t²)·D(x; t)        variance u²·(t² - u²)/t²
//
// The step to level 0 adds nothing.
type Posterior struct {
	// LargeVariance takes the chain's β, (1 + u²)·(t² - u²)/(1 + t²) here, for the variance: right for data that is noise
	// itself, as the posterior's is for data that is one point (Ho et al. 2020, section 3.2).
	LargeVariance bool
}

// Sample is algorithm 2.
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

// Evaluations is 1 for each step.
func (Posterior) Evaluations(levels []float64) int { return evaluations(levels, 1) }

// DDIM is the sampler of Song et al. 2021, eq. 12, in the same coordinates: from level t to u, with ε the prediction of the
// noise,
//
//	D(x; t) + √(u² - a²)·ε + a·z        ε = (x - D(x; t))/t        a = η·u·√(t² - u²)/t
//
// It is deterministic for η = 0, and then Euler in exact arithmetic; for η = 1 it is [Posterior].
type DDIM struct {
	Eta float64 // η, from 0 to 1
}

// Sample is eq. 12 for each pair of neighbouring levels.
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

// Evaluations is 1 for each step.
func (DDIM) Evaluations(levels []float64) int { return evaluations(levels, 1) }
