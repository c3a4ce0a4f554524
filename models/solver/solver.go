package solver

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Solver takes one step along the probability-flow ODE dx/dt = (x - D(x; t))/t, from noise levels t [B] to next [B].
// The slope at level 0 is undefined: if next is 0, a solver that would need it takes Euler's step, which ends at D(x; t).
type Solver interface {
	Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor
	// Evaluations is the number of calls of the denoiser per step.
	Evaluations() int
}

// Euler is the first-order solver, with one network evaluation per step. In this variance-exploding form it equals DDIM.
type Euler struct{}

// Evaluations is 1.
func (Euler) Evaluations() int { return 1 }

// Step returns x + (next - t)·dx/dt.
func (Euler) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		dt := next.Sub(s, t).PerSample(s, x.NDim())
		return x.Add(s, slope(s, d, x, t, c).Mul(s, dt))
	})
}

// Heun is the second-order solver of Karras et al. 2022, algorithm 1, with two network evaluations per step.
type Heun struct{}

// Evaluations is 2.
func (Heun) Evaluations() int { return 2 }

// Step returns x + (next - t)·(d1 + d2)/2 with the slopes at both ends.
func (Heun) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		dt := next.Sub(s, t).PerSample(s, x.NDim())
		d1 := slope(s, d, x, t, c)
		euler := x.Add(s, d1.Mul(s, dt))
		zero := next.EqScalar(s, 0)
		d2 := slope(s, d, euler, torch.Where(s, zero, t, next), c)
		heun := x.Add(s, d1.Add(s, d2).Mul(s, dt.MulScalar(s, 0.5)))
		return torch.Where(s, zero.PerSample(s, x.NDim()), euler, heun)
	})
}

// DPM2 is DPM-Solver-2 (Lu et al. 2022, algorithm 1 with r = 1/2): the midpoint rule with the midpoint in ln t, second order, two
// network evaluations per step. In variance-exploding coordinates its exponential integrator of the noise prediction is a plain
// difference of levels:
//
//	m = √(t·next)        u = x + (m - t)·d(x, t)        x + (next - t)·d(u, m)        d = dx/dt
type DPM2 struct{}

// Evaluations is 2.
func (DPM2) Evaluations() int { return 2 }

// Step takes one step with the slope at the midpoint.
func (DPM2) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		mid := middle(s, t, next)
		u := x.Add(s, slope(s, d, x, t, c).Mul(s, mid.Sub(s, t).PerSample(s, x.NDim())))
		return x.Add(s, slope(s, d, u, mid, c).Mul(s, next.Sub(s, t).PerSample(s, x.NDim())))
	})
}

// DPMpp2S is DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1 with r = 1/2): the midpoint rule in ln t for the prediction of
// x_0, second order, two network evaluations per step. With h = ln(t/next), e^-h is next/t:
//
//	m = √(t·next)        u = (m/t)·x + (1 - m/t)·D(x; t)        (next/t)·x + (1 - next/t)·D(u; m)
type DPMpp2S struct{}

// Evaluations is 2.
func (DPMpp2S) Evaluations() int { return 2 }

// Step takes one step with the prediction at the midpoint.
func (DPMpp2S) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		// towards is (to/t)·x + (1 - to/t)·origin.
		towards := func(origin, to *torch.Tensor) *torch.Tensor {
			return origin.Add(s, x.Sub(s, origin).Mul(s, to.Div(s, t).PerSample(s, x.NDim())))
		}
		mid := middle(s, t, next)
		u := towards(d.Denoise(s, x, t, c), mid)
		return towards(d.Denoise(s, u, mid, c), next)
	})
}

// middle is √(t·next), or t where next is 0, which makes the midpoint rule's step Euler's.
func middle(s *torch.Scope, t, next *torch.Tensor) *torch.Tensor {
	return torch.Where(s, next.EqScalar(s, 0), t, t.Mul(s, next).Sqrt(s))
}

// slope is dx/dt = (x - D(x; t))/t.
func slope(s *torch.Scope, d models.Denoiser, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return x.Sub(s, d.Denoise(s, x, t, c)).Div(s, t.PerSample(s, x.NDim()))
}
