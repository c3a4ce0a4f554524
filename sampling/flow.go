package sampling

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// moment is a noise level σ in the coordinates of flow matching (Lipman et al. 2022, Liu et al. 2022), whose time τ runs
// from 0 at the data to 1 at noise:
//
//	τ = σ/(1+σ)        α = 1 - τ = 1/(1+σ)        y = α·x_0 + τ·z = α·x        v = dy/dτ = (y - D(x; σ))/τ
//
// α is kept besides σ because τ rounds to 1 for large σ.
type moment struct {
	sigma, alpha *torch.Tensor // [B]
}

func momentOf(s *torch.Scope, sigma *torch.Tensor) moment {
	return moment{sigma, sigma.AddScalar(s, 1).Reciprocal(s)}
}

// tau is τ.
func (m moment) tau(s *torch.Scope) *torch.Tensor { return m.sigma.Mul(s, m.alpha) }

// y is α·x.
func (m moment) y(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return x.Mul(s, m.alpha.PerSample(s, x.NDim()))
}

// x is y/α.
func (m moment) x(s *torch.Scope, y *torch.Tensor) *torch.Tensor {
	return y.Div(s, m.alpha.PerSample(s, y.NDim()))
}

// velocity is v at y.
func (m moment) velocity(s *torch.Scope, d models.Denoiser, y *torch.Tensor, c models.Cond) *torch.Tensor {
	return y.Sub(s, d.Denoise(s, m.x(s, y), m.sigma, c)).Div(s, m.tau(s).PerSample(s, y.NDim()))
}

// move is y + (τ' - τ)·v, with τ' the time of to.
func (m moment) move(s *torch.Scope, y, v *torch.Tensor, to moment) *torch.Tensor {
	return y.Add(s, v.Mul(s, m.alpha.Sub(s, to.alpha).PerSample(s, y.NDim())))
}

// FlowEuler is Euler's method in the time of flow matching; one network evaluation per step. In exact arithmetic it equals Euler, since
// both move straight toward D; with noise levels in the thousands, as in flow matching, it has less rounding error.
type FlowEuler struct{}

// Evaluations returns 1.
func (FlowEuler) Evaluations() int { return 1 }

// Step returns y + (τ' - τ)·v(y, τ), converted to x.
func (FlowEuler) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		from, to := momentOf(s, t), momentOf(s, next)
		y := from.y(s, x)
		return to.x(s, from.move(s, y, from.velocity(s, d, y, c), to))
	})
}

// FlowHeun is Heun's method in the time of flow matching; second order, two network evaluations per step.
type FlowHeun struct{}

// Evaluations returns 2.
func (FlowHeun) Evaluations() int { return 2 }

// Step returns y + (τ' - τ)·(v1 + v2)/2 with the velocities at both ends, converted to x.
func (FlowHeun) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		from, to := momentOf(s, t), momentOf(s, next)
		y := from.y(s, x)
		v1 := from.velocity(s, d, y, c)
		euler := from.move(s, y, v1, to)
		zero := next.EqScalar(s, 0)
		v2 := momentOf(s, torch.Where(s, zero, t, next)).velocity(s, d, euler, c)
		heun := from.move(s, y, v1.Add(s, v2).MulScalar(s, 0.5), to)
		return to.x(s, torch.Where(s, zero.PerSample(s, x.NDim()), euler, heun))
	})
}

// FlowMidpoint is the midpoint method in the time of flow matching; second order, two network evaluations per step.
type FlowMidpoint struct{}

// Evaluations returns 2.
func (FlowMidpoint) Evaluations() int { return 2 }

// Step returns y + (τ' - τ)·v with the velocity at the midpoint, converted to x.
func (FlowMidpoint) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		from, to := momentOf(s, t), momentOf(s, next)
		// σ = τ/α, with the means of both.
		alpha := from.alpha.Add(s, to.alpha).MulScalar(s, 0.5)
		tau := from.tau(s).Add(s, to.tau(s)).MulScalar(s, 0.5)
		mid := moment{tau.Div(s, alpha), alpha}
		y := from.y(s, x)
		u := from.move(s, y, from.velocity(s, d, y, c), mid)
		return to.x(s, from.move(s, y, mid.velocity(s, d, u, c), to))
	})
}
