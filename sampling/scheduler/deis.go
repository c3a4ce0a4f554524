package scheduler

import (
	"math"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DEIS is the exponential integrator of Zhang & Chen (2023) in log ρ, in the order of the configuration's solver_order, 2 by default. It
// ends at the smallest noise level of the chain. diffusers: DEISMultistepScheduler.
type DEIS struct{}

type deisRun struct {
	preserving
	e1, e2 *torch.Tensor // the noise predicted in the previous step, and in the one before; nil: none
}

// Start implements Method.
func (DEIS) Start(c noise.Config, o Options) (Schedule, error) {
	c.FinalSigma, c.ZeroSNR, c.EulerFinal = "sigma_min", false, false // the class supports no other
	l, err := newLevels(c, o, uniClass, false, true)
	if err != nil {
		return nil, err
	}
	return &deisRun{preserving: preserving{l}}, nil
}

// Again implements Schedule.
func (r *deisRun) Again() Schedule {
	again := *r
	again.e1, again.e2 = nil, nil
	return &again
}

func (r *deisRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	clean = r.predict(s, i, x, out)
	k := r.begin + i
	to, from := r.level(k+1), r.level(k)
	e1, e2 := r.e1, r.e2
	r.e2 = e1
	defer e2.Free()
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		eps := x.Sub(s, clean.MulScalar(s, float64(from.alpha))).DivScalar(s, float64(from.sigma))
		r.e1 = s.Keep(eps.Share(s))
		order := r.orderOf(r.Order, k, i)
		if order == 1 {
			w := float64(to.sigma) * math.Expm1(float64(to.lambda-from.lambda))
			return x.MulScalar(s, float64(to.alpha/from.alpha)).Sub(s, eps.MulScalar(s, w))
		}
		rho := func(l level) float64 { return float64(l.sigma) / float64(l.alpha) }
		t, b, c := rho(to), rho(from), rho(r.level(k-1))
		// Integrals over ρ of the line or the parabola through the predictions in log ρ.
		part := func(at float64, others ...float64) float64 {
			if len(others) == 1 {
				return line(t, at, others[0]) - line(b, at, others[0])
			}
			return parabola(t, at, others[0], others[1]) - parabola(b, at, others[0], others[1])
		}
		y := x.DivScalar(s, float64(from.alpha))
		if order == 2 {
			y = y.Add(s, eps.MulScalar(s, part(b, c))).Add(s, e1.MulScalar(s, part(c, b)))
		} else {
			d := rho(r.level(k - 2))
			y = y.Add(s, eps.MulScalar(s, part(b, c, d))).Add(s, e1.MulScalar(s, part(c, d, b))).Add(s, e2.MulScalar(s, part(d, b, c)))
		}
		return y.MulScalar(s, float64(to.alpha))
	})
	return next, clean
}

// line is ∫ (log t - log c) / (log b - log c) dt.
func line(t, b, c float64) float64 {
	return t * (math.Log(t) - math.Log(c) - 1) / (math.Log(b) - math.Log(c))
}

// parabola is ∫ (log t - log c)(log t - log d) / ((log b - log c)(log b - log d)) dt.
func parabola(t, b, c, d float64) float64 {
	lt, lb, lc, ld := math.Log(t), math.Log(b), math.Log(c), math.Log(d)
	return t * (lt*lt - (lc+ld+2)*lt + lc*ld + lc + ld + 2) / ((lb - lc) * (lb - ld))
}
