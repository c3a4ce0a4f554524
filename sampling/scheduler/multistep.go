package scheduler

import (
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DPMPP2M is DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2), in the midpoint form, or in Heun's if the configuration's solver_type is
// heun. A solver_order of 1 is supported too. diffusers: DPMSolverMultistepScheduler with the algorithm dpmsolver++.
type DPMPP2M struct {
	Karras bool // Karras noise levels (Karras et al. 2022, eq. 5)
}

// DPMPP3M is DPM-Solver++(3M), the third-order variant. diffusers: DPMSolverMultistepScheduler with solver_order 3.
type DPMPP3M struct{}

// preserving are the noise levels of methods with variance-preserving latents α·x0 + σ·noise, α² + σ² = 1.
type preserving struct{ levels }

// InitSigma implements Schedule.
func (l *preserving) InitSigma() float64 { return 1 }

// Input implements Schedule.
func (l *preserving) Input(_ *torch.Scope, x *torch.Tensor, _ int) *torch.Tensor { return x }

// AddNoise implements Schedule.
func (l *preserving) AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		v := torch.Full(s, float64(l.sigmas[l.begin+i]), torch.Float32, 1).To(s, x0.DType())
		alpha := v.Square(s).AddScalar(s, 1).Sqrt(s).Reciprocal(s)
		return x0.Mul(s, alpha).Add(s, z.Mul(s, v.Mul(s, alpha)))
	})
}

// level is one noise level in the three parameterizations of multistep methods.
type level struct{ alpha, sigma, lambda float32 } // λ = log(α/σ)

func (l *preserving) level(i int) level {
	v := l.sigmas[i]
	alpha := 1 / root(float32(v*v)+1)
	sigma := v * alpha
	return level{alpha, sigma, exactly((*torch.Tensor).Log, alpha) - exactly((*torch.Tensor).Log, sigma)}
}

// predict returns the predicted clean latents in step i.
func (l *preserving) predict(s *torch.Scope, i int, x, out *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		at := l.level(l.begin + i)
		clean, _ := l.predicted(s, x, out, at.alpha, at.sigma, false)
		if l.Threshold {
			clean = l.threshold(s, clean)
		}
		if clean == out {
			clean = out.Share(s)
		}
		return clean
	})
}

// orderOf returns the order of step k of the chain, the i-th of the run: the method's, or lower in the first steps and, with few steps, in
// the last ones.
func (l *preserving) orderOf(most, k, i int) int {
	n := len(l.at)
	few := is(l.LowerFinal, true) && n < 15
	switch {
	case k == n-1 && (l.EulerFinal || few || l.FinalSigma == "zero"):
		return 1
	case k == n-2 && few:
		most = min(most, 2)
	}
	return min(most, i+1)
}

type dpmRun struct {
	preserving
	order  int
	m1, m2 *torch.Tensor // clean latents of the previous step, and of the one before; nil: none
}

// Start implements Method.
func (m DPMPP2M) Start(c noise.Config, o Options) (Schedule, error) {
	l, err := newLevels(c, o, sigmaClass, m.Karras, true)
	if err != nil {
		return nil, err
	}
	return &dpmRun{preserving: preserving{l}, order: min(l.Order, 2)}, nil
}

// Start implements Method.
func (DPMPP3M) Start(c noise.Config, o Options) (Schedule, error) {
	l, err := newLevels(c, o, sigmaClass, false, true)
	if err != nil {
		return nil, err
	}
	return &dpmRun{preserving: preserving{l}, order: 3}, nil
}

// Again implements Schedule.
func (r *dpmRun) Again() Schedule {
	again := *r
	again.m1, again.m2 = nil, nil
	return &again
}

func (r *dpmRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	clean = r.predict(s, i, x, out)
	m1, m2 := r.m1, r.m2
	r.m1, r.m2 = clean.Share(s), m1
	defer m2.Free()
	k := r.begin + i
	to, from := r.level(k+1), r.level(k)
	h := to.lambda - from.lambda
	scale := exactly((*torch.Tensor).Exp, -h) - 1 // e^-h - 1
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := wide(s, x).MulScalar(s, float64(to.sigma/from.sigma)).Sub(s, clean.MulScalar(s, float64(to.alpha*scale)))
		order := r.orderOf(r.order, k, i)
		if order == 1 {
			return y.To(s, clean.DType())
		}
		h0 := from.lambda - r.level(k-1).lambda
		r0 := h0 / h
		d1 := clean.Sub(s, m1).MulScalar(s, float64(1/r0))
		slope := to.alpha * (scale/h + 1)
		switch {
		case order == 3:
			r1 := (r.level(k-1).lambda - r.level(k-2).lambda) / h
			bend := d1.Sub(s, m1.Sub(s, m2).MulScalar(s, float64(1/r1)))
			d1 = d1.Add(s, bend.MulScalar(s, float64(r0/(r0+r1))))
			d2 := bend.MulScalar(s, float64(1/(r0+r1)))
			y = y.Add(s, d1.MulScalar(s, float64(slope))).Sub(s, d2.MulScalar(s, float64(to.alpha*((scale+h)/float32(h*h)-0.5))))
		case r.Solver == heunSolver:
			y = y.Add(s, d1.MulScalar(s, float64(slope)))
		default:
			y = y.Sub(s, d1.MulScalar(s, float64(0.5*(to.alpha*scale))))
		}
		return y.To(s, clean.DType())
	})
	return next, clean
}
