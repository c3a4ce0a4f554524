package scheduler

import (
	"math"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DPMPP2MSDE is SDE-DPM-Solver++(2M) (Lu et al. 2022b, section 5), in the midpoint form. It draws noise once per step, even in the last
// step, which does not use it. A solver_order of 1 is supported too. diffusers: DPMSolverMultistepScheduler with the algorithm
// sde-dpmsolver++.
type DPMPP2MSDE struct {
	Heun bool // Heun's form, diffusers' solver_type heun
}

// DPMPP3MSDE is the third-order variant. k-diffusion's sample_dpmpp_3m_sde weights the differences differently. diffusers:
// DPMSolverMultistepScheduler with the algorithm sde-dpmsolver++ and solver_order 3.
type DPMPP3MSDE struct{}

type sdeRun struct {
	preserving
	order  int
	heun   bool
	m1, m2 *torch.Tensor // clean latents of the previous step, and of the one before; nil: none
}

// Start implements Method.
func (m DPMPP2MSDE) Start(c noise.Config, o Options) (Schedule, error) {
	l, err := newLevels(c, o, sigmaClass, false, true)
	if err != nil {
		return nil, err
	}
	return &sdeRun{preserving: preserving{l}, order: min(l.Order, 2), heun: m.Heun}, nil
}

// Start implements Method.
func (DPMPP3MSDE) Start(c noise.Config, o Options) (Schedule, error) {
	l, err := newLevels(c, o, sigmaClass, false, true)
	if err != nil {
		return nil, err
	}
	return &sdeRun{preserving: preserving{l}, order: 3}, nil
}

// Again implements Schedule.
func (r *sdeRun) Again() Schedule {
	again := *r
	again.m1, again.m2 = nil, nil
	return &again
}

func (r *sdeRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	clean = r.predict(s, i, x, out)
	m1, m2 := r.m1, r.m2
	r.m1, r.m2 = clean.Share(s), m1
	defer m2.Free()
	k := r.begin + i
	order := r.orderOf(r.order, k, i)
	to, from := r.level(k+1), r.level(k)
	h := float64(to.lambda - from.lambda)
	drift := -math.Expm1(-2 * h)
	alpha := float64(to.alpha)
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := wide(s, x).MulScalar(s, float64(to.sigma/from.sigma)*math.Exp(-h)).Add(s, clean.MulScalar(s, alpha*drift))
		if order > 1 {
			h0 := float64(from.lambda - r.level(k-1).lambda)
			d1 := clean.Sub(s, m1).MulScalar(s, h/h0)
			slope := alpha * (drift/(-2*h) + 1)
			switch {
			case order == 3:
				h1 := float64(r.level(k-1).lambda - r.level(k-2).lambda)
				bend := d1.Sub(s, m1.Sub(s, m2).MulScalar(s, h/h1)).MulScalar(s, h/(h0+h1))
				d1 = d1.Add(s, bend.MulScalar(s, h0/h))
				y = y.Add(s, d1.MulScalar(s, slope)).Add(s, bend.MulScalar(s, alpha*((drift-2*h)/(4*h*h)-0.5)))
			case r.heun:
				y = y.Add(s, d1.MulScalar(s, slope))
			default:
				y = y.Add(s, d1.MulScalar(s, 0.5*alpha*drift))
			}
		}
		return y.Add(s, wide(s, noise(s)).MulScalar(s, float64(to.sigma)*math.Sqrt(drift))).To(s, clean.DType())
	})
	return next, clean
}
