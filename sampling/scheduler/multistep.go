package scheduler

import (
	"errors"

	"github.com/onestep-go/onestep/torch"
)

// DPMPP2M is DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2), in the midpoint form. diffusers: DPMSolverMultistepScheduler with
// the algorithm dpmsolver++.
type DPMPP2M struct {
	Karras bool // noise levels are spaced as by Karras et al. (2022), eq. 5
}

// UniPC predicts each step and corrects it when the network has been called at its end, which costs no further call (Zhao et al.
// 2023, algorithms 5 and 7, with B(h) = e^h - 1). diffusers: UniPCMultistepScheduler.
type UniPC struct {
	Karras bool // noise levels are spaced as by Karras et al. (2022), eq. 5
}

// preserving are the levels of methods whose latents are α·x0 + σ·noise with α² + σ² = 1.
type preserving struct{ levels }

// InitSigma implements Run.
func (l *preserving) InitSigma() float64 { return 1 }

// Input implements Run.
func (l *preserving) Input(_ *torch.Scope, x *torch.Tensor, _ int) *torch.Tensor { return x }

// AddNoise implements Run.
func (l *preserving) AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		v := torch.Full(s, float64(l.sigmas[l.begin+i]), torch.Float32, 1).To(s, x0.DType())
		alpha := v.Square(s).AddScalar(s, 1).Sqrt(s).Reciprocal(s)
		return x0.Mul(s, alpha).Add(s, z.Mul(s, v.Mul(s, alpha)))
	})
}

// level is one noise level in the three ways that multistep methods speak of it.
type level struct{ alpha, sigma, lambda float32 } // λ = log(α/σ)

func (l *preserving) level(i int) level {
	v := l.sigmas[i]
	alpha := 1 / root(float32(v*v)+1)
	sigma := v * alpha
	return level{alpha, sigma, exactly((*torch.Tensor).Log, alpha) - exactly((*torch.Tensor).Log, sigma)}
}

// predict returns what the network predicts the clean latents to be in step i.
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

type dpmRun struct {
	preserving
	before *torch.Tensor // the clean latents of the step before; nil at first
}

// Start implements Method.
func (m DPMPP2M) Start(c Config, o Options) (Run, error) {
	l, err := newLevels(c, o, sigmaClass, m.Karras, true)
	if err != nil {
		return nil, err
	}
	return &dpmRun{preserving: preserving{l}}, nil
}

func (r *dpmRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	clean = r.predict(s, i, x, out)
	before := r.before
	defer before.Free()
	r.before = clean.Share(s)
	k, n := r.begin+i, len(r.at)
	few := is(r.LowerFinal, true) && n < 15
	first := before == nil || r.Order == 1 || (k == n-1 && (r.EulerFinal || few || r.FinalSigma == "zero"))
	to, from := r.level(k+1), r.level(k)
	h := to.lambda - from.lambda
	scale := to.alpha * (exactly((*torch.Tensor).Exp, -h) - 1)
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := wide(s, x).MulScalar(s, float64(to.sigma/from.sigma)).Sub(s, clean.MulScalar(s, float64(scale)))
		if !first {
			r0 := (from.lambda - r.level(k-1).lambda) / h
			d1 := clean.Sub(s, before).MulScalar(s, float64(1/r0))
			y = y.Sub(s, d1.MulScalar(s, float64(0.5*scale)))
		}
		return y.To(s, clean.DType())
	})
	return next, clean
}

type uniRun struct {
	preserving
	x      *torch.Tensor // latents that the step before began with, as corrected
	m1, m2 *torch.Tensor // clean latents of the step before, and of the one before that; nil: there was none
	order  int           // of the step before
}

// Start implements Method.
func (m UniPC) Start(c Config, o Options) (Run, error) {
	l, err := newLevels(c, o, uniClass, m.Karras, true)
	if err != nil {
		return nil, err
	}
	if l.Order > 1 && len(l.at) > 1 && !is(l.LowerFinal, true) && l.FinalSigma == "zero" {
		return nil, errors.New("scheduler config: lower_order_final is false: unipc cannot end without noise in the second order; " +
			"want true, or final_sigmas_type sigma_min")
	}
	return &uniRun{preserving: preserving{l}}, nil
}

func (r *uniRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	k := r.begin + i
	clean = r.predict(s, i, x, out)
	if i == 0 {
		x = x.Share(s)
	} else {
		x = r.correct(s, k, clean)
	}
	r.x.Free()
	r.m2.Free()
	r.x, r.m2, r.m1 = x, r.m1, clean.Share(s)
	r.order = min(r.Order, i+1)
	if is(r.LowerFinal, true) {
		r.order = min(r.order, len(r.at)-k)
	}
	to, from := r.level(k+1), r.level(k)
	h := to.lambda - from.lambda
	scale := to.alpha * exactly((*torch.Tensor).Expm1, -h)
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := x.MulScalar(s, float64(to.sigma/from.sigma)).Sub(s, clean.MulScalar(s, float64(scale)))
		if r.order == 2 {
			d := r.m2.Sub(s, clean).DivScalar(s, float64((r.level(k-1).lambda-from.lambda)/h))
			y = y.Sub(s, d.MulScalar(s, 0.5).MulScalar(s, float64(scale)))
		}
		return y
	})
	return next, clean
}

// correct returns the latents at level k anew, from those of the step before and what the network says now.
func (r *uniRun) correct(s *torch.Scope, k int, clean *torch.Tensor) *torch.Tensor {
	to, from := r.level(k), r.level(k-1)
	h := to.lambda - from.lambda
	b := exactly((*torch.Tensor).Expm1, -h) // B(h), and hφ_1 too
	scale := to.alpha * b
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := r.x.MulScalar(s, float64(to.sigma/from.sigma)).Sub(s, r.m1.MulScalar(s, float64(scale)))
		d := clean.Sub(s, r.m1)
		if r.order == 1 {
			return y.Sub(s, d.MulScalar(s, 0.5).MulScalar(s, float64(scale)))
		}
		// The weights ρ of the two differences solve ρ1 + ρ2 = b1 and r·ρ1 + ρ2 = b2 (eq. 9 of the paper).
		phi := b/-h - 1
		b1 := phi / b
		b2 := (phi/-h - 0.5) * 2 / b
		rk := (r.level(k-2).lambda - from.lambda) / h
		rho1 := (b1 - b2) / (1 - rk)
		d1 := r.m2.Sub(s, r.m1).DivScalar(s, float64(rk))
		sum := d1.MulScalar(s, float64(rho1)).Add(s, d.MulScalar(s, float64(b1-rho1)))
		return y.Sub(s, sum.MulScalar(s, float64(scale)))
	})
}
