package scheduler

import (
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// Euler solves the probability-flow ODE with Euler's method (Karras et al. 2022, algorithm 2 without churn). diffusers:
// EulerDiscreteScheduler.
type Euler struct {
	Karras bool // Karras noise levels (Karras et al. 2022, eq. 5)
}

// EulerAncestral removes more noise per step than Euler and adds new noise (k-diffusion's sample_euler_ancestral). It draws noise once per
// step, even in the last step, which does not use it. diffusers: EulerAncestralDiscreteScheduler.
type EulerAncestral struct{}

// Heun is Heun's method: it corrects each Euler step by the slope at its end. All steps but the last call the network twice. diffusers:
// HeunDiscreteScheduler.
type Heun struct {
	Karras bool // Karras noise levels (Karras et al. 2022, eq. 5)
}

// scaled are the noise levels of methods with latents x0 + σ·noise.
type scaled struct{ levels }

// InitSigma implements Schedule.
func (l *scaled) InitSigma() float64 { return l.scaledSigma() }

// Input implements Schedule.
func (l *scaled) Input(s *torch.Scope, x *torch.Tensor, i int) *torch.Tensor {
	return scaledInput(s, x, l.sigmas[l.begin+i])
}

// AddNoise implements Schedule.
func (l *scaled) AddNoise(s *torch.Scope, x0, z *torch.Tensor, i int) *torch.Tensor {
	return scaledNoise(s, x0, z, l.sigmas[l.begin+i])
}

// wide returns x in float32, in which these methods compute, or unchanged if it is float64.
func wide(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if x.DType() == torch.Float64 {
		return x
	}
	return x.To(s, torch.Float32)
}

type eulerRun struct{ scaled }

// Start implements Method.
func (m Euler) Start(c noise.Config, o Options) (Schedule, error) {
	l, err := newLevels(c, o, sigmaClass, m.Karras, false)
	if err != nil {
		return nil, err
	}
	return &eulerRun{scaled{l}}, nil
}

// Again implements Schedule.
func (r *eulerRun) Again() Schedule { return r } // it has no state between steps

func (r *eulerRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	sigma, to := r.sigmas[r.begin+i], r.sigmas[r.begin+i+1]
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := wide(s, x)
		x0 := r.clean(s, x, out, sigma)
		clean = s.Keep(x0.Share(s))
		slope := x.Sub(s, x0).DivScalar(s, float64(sigma))
		return x.Add(s, slope.MulScalar(s, float64(to-sigma))).To(s, out.DType())
	})
	return next, clean
}

type ancestralRun struct{ scaled }

// Start implements Method.
func (EulerAncestral) Start(c noise.Config, o Options) (Schedule, error) {
	// The class has no spacings, but a spacing by name works, as in k-diffusion.
	c.FinalSigma, c.Karras, c.Exponential, c.BetaSigmas, c.LuLambdas = "", false, false, false, false
	l, err := newLevels(c, o, sigmaClass, false, false)
	if err != nil {
		return nil, err
	}
	return &ancestralRun{scaled{l}}, nil
}

// Again implements Schedule.
func (r *ancestralRun) Again() Schedule { return r } // it has no state between steps

func (r *ancestralRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, noise Noise) (next, clean *torch.Tensor) {
	sigma, to := r.sigmas[r.begin+i], r.sigmas[r.begin+i+1]
	from2, to2 := float32(sigma*sigma), float32(to*to)
	up := root(float32(to2*(from2-to2)) / from2)
	down := root(to2 - float32(up*up))
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := wide(s, x)
		x0 := r.clean(s, x, out, sigma)
		clean = s.Keep(x0.Share(s))
		slope := x.Sub(s, x0).DivScalar(s, float64(sigma))
		y := x.Add(s, slope.MulScalar(s, float64(down-sigma)))
		return y.Add(s, noise(s).MulScalar(s, float64(up))).To(s, out.DType())
	})
	return next, clean
}

type heunRun struct {
	scaled
	slope, from *torch.Tensor // of the first half of a step; else nil
}

// Start implements Method.
func (m Heun) Start(c noise.Config, o Options) (Schedule, error) {
	c.FinalSigma, c.ZeroSNR, c.Threshold = "", false, false // not supported by the class
	l, err := newLevels(c, o, heunClass, m.Karras, false)
	if err != nil {
		return nil, err
	}
	// Every level but the first and the last is used twice: at the end of a step and at the start of the next.
	n := len(l.at)
	at, sigmas := l.at[:1:1], l.sigmas[:1:1]
	for i := 1; i < n; i++ {
		at = append(at, l.at[i], l.at[i])
		sigmas = append(sigmas, l.sigmas[i], l.sigmas[i])
	}
	l.at, l.sigmas, l.begin = at, append(sigmas, l.sigmas[n]), 2*l.begin
	return &heunRun{scaled: scaled{l}}, nil
}

// Again implements Schedule.
func (r *heunRun) Again() Schedule {
	again := *r
	again.slope, again.from = nil, nil
	return &again
}

func (r *heunRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	i += r.begin
	first := r.slope == nil
	var slope, from *torch.Tensor
	var dt float32
	sigma := r.sigmas[i]
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x0 := r.bound(s, r.chain.clean(s, x, out, sigma))
		clean = s.Keep(x0.Share(s))
		d := x.Sub(s, x0).DivScalar(s, float64(sigma))
		if first {
			slope, from, dt = s.Keep(d.Share(s)), s.Keep(x.Share(s)), r.sigmas[i+1]-sigma
			return x.Add(s, d.MulScalar(s, float64(dt)))
		}
		dt = sigma - r.sigmas[i-1]
		d = r.slope.Add(s, d).DivScalar(s, 2)
		return r.from.Add(s, d.MulScalar(s, float64(dt)))
	})
	r.slope.Free()
	r.from.Free()
	r.slope, r.from = slope, from
	return next, clean
}
