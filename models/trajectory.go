package models

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Trajectory turns a network of two times into jumps along the probability-flow ODE, from any noise level to any lower one: the
// consistency trajectory model of Kim et al. 2024, eq. 6, with EDM's preconditioning inside.
//
//	G(x, t, u) = u/t·x + (1 - u/t)·g(x, t, u)        g = c_skip(t)·x + c_out(t)·F(c_in(t)·x, c_noise(t), c_noise(u))
//
// The network takes the end u as Cond.Until, in the form of the noise label. g(x, t, t) is a denoiser.
type Trajectory struct {
	Net       Network
	Noise     NoiseEmbedding
	SigmaData float64 // standard deviation of the data's elements; 0: 0.5
	SigmaMin  float64 // ε, where trajectories end; 0: 0.002
}

var (
	_ Denoiser            = (*Trajectory)(nil)
	_ ConsistencyFunction = (*Trajectory)(nil)
	_ Jumper              = (*Trajectory)(nil)
)

// SigmaMinimum returns ε, with its default.
func (g *Trajectory) SigmaMinimum() float64 {
	if g.SigmaMin == 0 {
		return 0.002
	}
	return g.SigmaMin
}

// Parameters yields the network's parameters.
func (g *Trajectory) Parameters() iter.Seq2[string, *torch.Tensor] { return g.Net.Parameters() }

// Jump returns G(x, t, next): the point at levels next [B] on the trajectory through x [B, ...] at noise levels t [B]. If next is t,
// it is x exactly.
func (g *Trajectory) Jump(s *torch.Scope, x, t, next *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("jump", x, t)
	checkLevels("jump", x, next)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		from, to := t.To(s, torch.Float64), next.To(s, torch.Float64)
		start := from.ClampMin(s, leastLevel)            // 0/0 is 1: a jump from 0 can only be to 0
		kept := to.ClampMin(s, leastLevel).Div(s, start) // next/t
		rest := from.Sub(s, to).Div(s, start)            // 1 - next/t
		return x.MulPerSample(s, kept).Add(s, g.Inner(s, x, t, next, c).MulPerSample(s, rest))
	})
}

// Inner returns g(x, t, next), from which the jumps are computed.
func (g *Trajectory) Inner(s *torch.Scope, x, t, next *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("jump", x, t)
	checkLevels("jump", x, next)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		c.Until = edmForm(s, next.To(s, torch.Float64), orHalf(g.SigmaData), g.Noise).label.To(s, levelType(t))
		return denoise(s, &EDM{g.Net, g.Noise, g.SigmaData}, x, t, c)
	})
}

// Origin returns G(x, t, ε), the end of the trajectory through x [B, ...] at noise levels t [B].
func (g *Trajectory) Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		// ε is rounded to t's type, so that f(x, ε) is x.
		return g.Jump(s, x, t, torch.Full(s, g.SigmaMinimum(), t.DType(), t.Shape()...), c)
	})
}

// Denoise returns g(x, t, t), the denoiser that is the limit of short jumps, for x [B, ...] at noise levels t [B].
func (g *Trajectory) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return g.Inner(s, x, t, t, c)
}

// Validate reports a missing network and values out of range.
func (g *Trajectory) Validate() error {
	if err := validNetwork("trajectory", g.Net); err != nil {
		return err
	}
	if !(g.SigmaMin >= 0) || math.IsInf(g.SigmaMin, 1) {
		return fmt.Errorf("trajectory: want a smallest noise level above 0, or 0 for 0.002, got %g", g.SigmaMin)
	}
	return validSigmaData("trajectory", g.SigmaData)
}

// MeanFlow turns a network that predicts average velocities into jumps along the probability-flow ODE (Geng et al. 2025, eq. 3
// and 12). Points and times are those of Flow; u is the average of v from time r to τ, and trajectories end at 0:
//
//	y_r = y - (τ-r)·u(y, r, τ)        u(y, τ, τ) = v
//
// The network takes τ as its noise label, and r or τ-r as Cond.Until.
type MeanFlow struct {
	Net   Network
	Scale float64 // factor of both times; 0: 1
	// Interval passes τ-r to the network in place of r.
	Interval bool
}

var (
	_ Denoiser            = (*MeanFlow)(nil)
	_ ConsistencyFunction = (*MeanFlow)(nil)
	_ Jumper              = (*MeanFlow)(nil)
)

// Parameters yields the network's parameters.
func (f *MeanFlow) Parameters() iter.Seq2[string, *torch.Tensor] { return f.Net.Parameters() }

// AverageVelocity returns u(y, r, τ) at y [B, ...] for the times from r to tau [B], for training. Derivatives pass through all
// three.
func (f *MeanFlow) AverageVelocity(s *torch.Scope, y, r, tau *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		at, until := tau.To(s, levelType(tau)), r.To(s, levelType(tau))
		if f.Interval {
			until = at.Sub(s, until)
		}
		c.Until = until.MulScalar(s, orOne(f.Scale))
		return Forward(s, f.Net, y, at.MulScalar(s, orOne(f.Scale)), c)
	})
}

// Jump returns the point at levels next [B] on the trajectory through x [B, ...] at noise levels t [B]. In σ coordinates,
//
//	x_next = (1+next)/(1+t)·x - (t-next)/(1+t)·u
//
// If next is t, it is x exactly.
func (f *MeanFlow) Jump(s *torch.Scope, x, t, next *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("jump", x, t)
	checkLevels("jump", x, next)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		from, to := t.To(s, torch.Float64), next.To(s, torch.Float64)
		u := f.velocity(s, x, from, to, levelType(t), c)
		below := from.AddScalar(s, 1)
		kept := to.AddScalar(s, 1).Div(s, below)
		return x.MulPerSample(s, kept).Sub(s, u.MulPerSample(s, from.Sub(s, to).Div(s, below)))
	})
}

// velocity returns u at x, averaged over the times of the levels to (lower) and from (higher), both float64.
func (f *MeanFlow) velocity(s *torch.Scope, x, from, to *torch.Tensor, label torch.DType, c Cond) *torch.Tensor {
	tau, r := FlowTime(s, from), FlowTime(s, to)
	until := r
	if f.Interval {
		until = tau.Sub(s, r)
	}
	c.Until = until.MulScalar(s, orOne(f.Scale)).To(s, label)
	y := x.MulPerSample(s, from.AddScalar(s, 1).Reciprocal(s))
	return Forward(s, f.Net, y, tau.MulScalar(s, orOne(f.Scale)).To(s, label), c)
}

// Origin returns the point at level 0 of the trajectory through x [B, ...] at noise levels t [B].
func (f *MeanFlow) Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return f.Jump(s, x, t, torch.ZerosLike(s, t), c) })
}

// Denoise returns y - τ·u(y, τ, τ), the denoiser of the underlying flow, for x [B, ...] at noise levels t [B].
func (f *MeanFlow) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("denoiser", x, t)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		at := t.To(s, torch.Float64)
		u := f.velocity(s, x, at, at, levelType(t), c)
		alpha := at.AddScalar(s, 1).Reciprocal(s)
		return x.MulPerSample(s, alpha).Sub(s, u.MulPerSample(s, at.Mul(s, alpha)))
	})
}

// Validate reports a missing network and values out of range.
func (f *MeanFlow) Validate() error {
	if err := validNetwork("mean flow", f.Net); err != nil {
		return err
	}
	return validScale("mean flow", f.Scale)
}
