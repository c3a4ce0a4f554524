package models

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Flow turns a flow-matching (Lipman et al. 2022) or rectified-flow (Liu et al. 2022) network into a denoiser. Its points y are
// on straight lines from data to noise, in time τ from 0 to 1, and the network predicts the velocity:
//
//	y = (1-τ)·x_0 + τ·z = x/(1+σ)        τ = σ/(1+σ)        F(y, label) = v = dy/dτ = z - x_0        D = y - τ·v
type Flow struct {
	Net   Network
	Scale float64 // the noise label is Scale·τ; 0: 1. Networks in diffusers' format use 1000
	// Reversed is for networks whose time runs from 0 at the noise to 1 at the data: the label is Scale·(1-τ), and the network
	// predicts x_0 - z.
	Reversed bool
}

// Parameters yields the network's parameters.
func (f *Flow) Parameters() iter.Seq2[string, *torch.Tensor] { return f.Net.Parameters() }

func (f *Flow) network() Network { return f.Net }

func (f *Flow) form(s *torch.Scope, t *torch.Tensor) form {
	alpha := t.AddScalar(s, 1).Reciprocal(s)
	tau := t.Mul(s, alpha)
	if f.Reversed {
		return form{skip: alpha, out: tau, in: alpha, label: alpha.MulScalar(s, orOne(f.Scale))}
	}
	return form{skip: alpha, out: tau.Neg(s), in: alpha, label: tau.MulScalar(s, orOne(f.Scale))}
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (f *Flow) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, f, x, t, c)
}

// Velocity returns v = dy/dτ at y [B, ...] and times tau [B], for training and for solvers in τ. Its training target is
// z - x_0, at y = Interpolate(x_0, z, τ); in reflow, x_0 is the flow's own sample for z.
func (f *Flow) Velocity(s *torch.Scope, y, tau *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		at := tau.To(s, levelType(tau))
		if f.Reversed {
			at = at.Neg(s).AddScalar(s, 1)
			return Forward(s, f.Net, y, at.MulScalar(s, orOne(f.Scale)), c).Neg(s)
		}
		return Forward(s, f.Net, y, at.MulScalar(s, orOne(f.Scale)), c)
	})
}

// Validate reports a missing network and values out of range.
func (f *Flow) Validate() error {
	if err := validNetwork("flow", f.Net); err != nil {
		return err
	}
	return validScale("flow", f.Scale)
}

// Interpolate returns (1-τ)·x + τ·z for x and z [B, ...] and tau [B].
func Interpolate(s *torch.Scope, x, z, tau *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		at := tau.To(s, levelType(tau))
		return x.MulPerSample(s, at.Neg(s).AddScalar(s, 1)).Add(s, z.MulPerSample(s, at))
	})
}

// FlowTime returns the time τ = σ/(1+σ) of noise levels of any shape.
func FlowTime(s *torch.Scope, sigma *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return sigma.Div(s, sigma.AddScalar(s, 1)) })
}

// FlowLevel returns the noise level σ = τ/(1-τ) of times of any shape. It is infinite at τ = 1.
func FlowLevel(s *torch.Scope, tau *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return tau.Div(s, tau.Neg(s).AddScalar(s, 1)) })
}

// orOne is a scale with its default.
func orOne(scale float64) float64 {
	if scale == 0 {
		return 1
	}
	return scale
}

func validScale(what string, v float64) error {
	if !(v >= 0) || math.IsInf(v, 1) {
		return fmt.Errorf("%s: want a time scale above 0, or 0 for 1, got %g", what, v)
	}
	return nil
}
