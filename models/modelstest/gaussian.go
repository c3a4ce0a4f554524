// Package modelstest has test helpers for models: distributions whose denoiser and consistency function are known in closed form
// ([Gaussian], [Mixture]), and a conformance suite that every network has to pass ([Network]).
package modelstest

import (
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Gaussian is data with independent elements from N(Mean, Std²). With noise of standard deviation t it is
// N(Mean, Std² + t²), and its probability-flow ODE has an exact solution:
//
//	D(x; t) = m + s²·(x - m)/(s² + t²)
//	f(x, t) = m + (x - m)·√((s² + ε²)/(s² + t²))
//
// It is a models.Denoiser and a models.ConsistencyFunction. The zero value has mean 0, standard deviation 0.5 and ε 0.002.
type Gaussian struct {
	Mean     float64
	Std      float64 // 0: 0.5
	SigmaMin float64 // ε, where trajectories end; 0: 0.002
}

var (
	_ models.Denoiser            = Gaussian{}
	_ models.ConsistencyFunction = Gaussian{}
)

func (g Gaussian) std() float64 {
	if g.Std == 0 {
		return 0.5
	}
	return g.Std
}

func (g Gaussian) sigmaMin() float64 {
	if g.SigmaMin == 0 {
		return 0.002
	}
	return g.SigmaMin
}

// Denoise returns D(x; t) for x [B, ...] and t [B].
func (g Gaussian) Denoise(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	v := g.std() * g.std()
	return g.shrink(s, x, t, func(s *torch.Scope, variance *torch.Tensor) *torch.Tensor {
		return variance.Reciprocal(s).MulScalar(s, v)
	})
}

// Origin returns f(x, t), the point at ε of the trajectory through x [B, ...] at t [B].
func (g Gaussian) Origin(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	return g.shrink(s, x, t, func(s *torch.Scope, variance *torch.Tensor) *torch.Tensor {
		return variance.Rsqrt(s).MulScalar(s, math.Hypot(g.std(), g.sigmaMin()))
	})
}

// shrink returns m + (x - m)·factor(s² + t²).
func (g Gaussian) shrink(s *torch.Scope, x, t *torch.Tensor, factor func(s *torch.Scope, variance *torch.Tensor) *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		f := factor(s, t.Square(s).AddScalar(s, g.std()*g.std())).To(s, x.DType()).PerSample(s, x.NDim())
		return x.SubScalar(s, g.Mean).Mul(s, f).AddScalar(s, g.Mean)
	})
}

// Move returns the point at level to on the trajectory through x at noise level t: m + (x - m)·√((s² + to²)/(s² + t²)).
func (g Gaussian) Move(x, t, to float64) float64 {
	return g.Mean + (x-g.Mean)*math.Hypot(g.std(), to)/math.Hypot(g.std(), t)
}

// Sample draws a tensor of the given shape from the data's distribution.
func (g Gaussian) Sample(s *torch.Scope, stream *torch.Generator, d torch.DType, shape ...int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return torch.Randn(s, stream, d, shape...).MulScalar(s, g.std()).AddScalar(s, g.Mean)
	})
}
