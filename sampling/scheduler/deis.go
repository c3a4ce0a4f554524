package scheduler

import (
	"math"

	"github.com/onestep-go/onestep/torch"
)

// DEIS is the exponential integrator of Zhang & Chen (2023) in log ρ, of the second order, or of solver_order 1. It ends at the first level
// of the chain. diffusers: DEISMultistepScheduler.
type DEIS struct{}

type deisRun struct {
	preserving
	before *torch.Tensor // the noise predicted in the step before; nil at first
}

// Start implements Method.
func (DEIS) Start(c Config, o Options) (Run, error) {
	c.FinalSigma, c.ZeroSNR = "sigma_min", false // the class knows no other
	l, err := newLevels(c, o, uniClass, false, true)
	if err != nil {
		return nil, err
	}
	return &deisRun{preserving: preserving{l}}, nil
}

func (r *deisRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	clean = r.predict(s, i, x, out)
	k, n := r.begin+i, len(r.at)
	to, from := r.level(k+1), r.level(k)
	before := r.before
	defer before.Free()
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		eps := x.Sub(s, clean.MulScalar(s, float64(from.alpha))).DivScalar(s, float64(from.sigma))
		r.before = s.Keep(eps.Share(s))
		if before == nil || r.Order == 1 || (k == n-1 && is(r.LowerFinal, true) && n < 15) {
			w := float64(to.sigma) * math.Expm1(float64(to.lambda-from.lambda))
			return x.MulScalar(s, float64(to.alpha/from.alpha)).Sub(s, eps.MulScalar(s, w))
		}
		rho := func(l level) float64 { return float64(l.sigma) / float64(l.alpha) }
		t, b, c := rho(to), rho(from), rho(r.level(k-1))
		// The integrals of the line through two predictions over ρ, in log ρ.
		part := func(b, c float64) float64 {
			f := func(t float64) float64 { return t * (math.Log(t) - math.Log(c) - 1) / (math.Log(b) - math.Log(c)) }
			return f(t) - f(rho(from))
		}
		y := x.DivScalar(s, float64(from.alpha)).Add(s, eps.MulScalar(s, part(b, c))).Add(s, before.MulScalar(s, part(c, b)))
		return y.MulScalar(s, float64(to.alpha))
	})
	return next, clean
}
