package training

import (
	"cmp"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// AlphaFlow trains a network of average velocities, without a teacher: a family of losses from flow matching to [MeanFlow], between which
// the run passes (Zhang et al. 2025, "AlphaFlow", eq. 8 and algorithms 1 and 2). With y and v as MeanFlow has them,
//
//	m = α·r + (1-α)·τ        Δ = u_θ(y, r, τ) - (α·v + (1-α)·u_θ⁻(y - (τ-m)·v, r, m))
//	L = ‖Δ‖²/α / (‖Δ‖²/α² + c)^p
//	α(k) = 1 - sigmoid(γ·(k/K - (From+To)/2)/(To-From)), 1 above 1-η, 0 below η
//
// For α = 1 this is trajectory flow matching, whose target is v. For α = ½ with Shortcut, the first half of the way is the model's own,
// u_θ⁻(y, m, τ) in place of v: that is the loss of shortcut models (Frans et al. 2025), times 2. For α → 0 its gradient is MeanFlow's, and
// at α = 0 the loss is MeanFlow's own, which needs a network with forward-mode derivatives.
//
// The paper's adaptive weight is α/(‖Δ‖² + c), with power 1. Its ratio to MeanFlow's weight depends on α as soon as ‖Δ‖² is near c; here c
// is α²·c there, so that the limit is MeanFlow for any power. The published code averages ‖Δ‖² over the elements, where MeanFlow adds them up.
//
// The embedded MeanFlow holds the model, the times, the power and c. Ratio is 0.75 if it is 0: the paper's best fraction of samples with
// r = τ is a quarter.
type AlphaFlow struct {
	MeanFlow
	Steps    int     // K, the length of the run
	From, To float64 // the fractions of the run between which α falls; both 0: 0 and 1
	Gamma    float64 // γ; 0: 25
	Clamp    float64 // η; 0: 0.005
	Constant float64 // α for the whole run, in (0, 1]; 0: α(k)
	Shortcut bool    // the first part of the way is the model's own, not the sample's
}

func (f *AlphaFlow) withDefaults() AlphaFlow {
	c := *f
	c.Ratio = cmp.Or(c.Ratio, 0.75)
	c.MeanFlow = c.MeanFlow.withDefaults()
	if c.From == 0 && c.To == 0 {
		c.To = 1
	}
	c.Gamma = cmp.Or(c.Gamma, 25)
	c.Clamp = cmp.Or(c.Clamp, 0.005)
	return c
}

// Alpha returns α at step k.
func (f *AlphaFlow) Alpha(k int) float64 {
	c := f.withDefaults()
	if c.Constant > 0 {
		return c.Constant
	}
	at := (float64(k)/float64(c.Steps) - (c.From+c.To)/2) / (c.To - c.From)
	switch alpha := 1 / (1 + math.Exp(c.Gamma*at)); {
	case alpha > 1-c.Clamp:
		return 1
	case alpha < c.Clamp:
		return 0
	default:
		return alpha
	}
}

// Loss draws two times and a noise for each sample and returns the mean weighted squared error.
func (f *AlphaFlow) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	c := f.withDefaults()
	r, tau := c.draw(b, d)
	return f.LossAt(s, f.Alpha(k), b, r, tau, d.Noise(s, b.X), d.Dropout)
}

// LossAt is the loss for a given α, times r ≤ tau [B] and noise z, of the images' shape. All evaluations of the network for a sample draw
// the same dropout masks.
func (f *AlphaFlow) LossAt(s *torch.Scope, alpha float64, b Batch, r, tau []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	c := f.withDefaults()
	if alpha == 0 {
		return c.MeanFlow.LossAt(s, b, r, tau, z, dropout)
	}
	return inParts(s, b, r, tau, z, dropout, func(p span) *torch.Tensor {
		target, part := p.v, torch.Ones(s, p.at.DType(), p.at.Dim(0))
		if p.apart {
			part = part.MulScalar(s, alpha)
			target = c.target(s, p, alpha, part)
		}
		return secant(s, sumOfSquares(s, p.average(s, c.Model).Sub(s, target)), part, c.Eps, c.Power)
	})
}

// target is that of samples whose r and τ differ.
func (f *AlphaFlow) target(s *torch.Scope, p span, alpha float64, part *torch.Tensor) *torch.Tensor {
	velocity := p.v
	if f.Shortcut {
		velocity = s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
			mid := p.at.Sub(s, p.at.Sub(s, p.r).Mul(s, part))
			return f.Model.AverageVelocity(s, p.y, mid, p.at, p.cond)
		})
	}
	if alpha == 1 {
		return velocity // nothing is left for a second jump
	}
	return p.stepped(s, f.Model, velocity, part)
}

// Try computes a loss at the run's smallest α, which fails at 0 for a network without forward-mode derivatives. The trainer calls it before
// a run.
func (f *AlphaFlow) Try(s *torch.Scope, b Batch, d Draws) {
	r, tau := farTimes(b)
	f.LossAt(s, f.Alpha(max(0, f.Steps-1)), b, r, tau, d.Noise(s, b.X), d.Dropout)
}

// Stats returns α as "alpha".
func (f *AlphaFlow) Stats(k int) map[string]float64 { return map[string]float64{"alpha": f.Alpha(k)} }

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (f *AlphaFlow) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(f.Model, "alphaflow", 80, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step, and then Try.
func (f *AlphaFlow) Validate() error {
	c := f.withDefaults()
	switch {
	case c.Steps < 1:
		return fmt.Errorf("α-flow: want at least 1 step, got %d", c.Steps)
	case !(c.Constant >= 0 && c.Constant <= 1):
		return fmt.Errorf("α-flow: want a constant α in (0, 1], or 0 for the schedule, got %g", c.Constant)
	case !(c.From >= 0) || !(c.To > c.From) || !(c.To <= 1):
		return fmt.Errorf("α-flow: want two fractions of the run in [0, 1] between which α falls, the second above the first, got %g and %g", c.From, c.To)
	case !(c.Gamma > 0) || math.IsInf(c.Gamma, 1) || !(c.Clamp > 0 && c.Clamp < 0.5):
		return fmt.Errorf("α-flow: want γ above 0 and η in (0, 0.5), got %g and %g", c.Gamma, c.Clamp)
	case c.Shortcut && c.Constant == 0:
		return fmt.Errorf("α-flow: shortcuts need a constant α, such as 0.5: MeanFlow, where the schedule ends, has no first step")
	}
	return c.MeanFlow.Validate()
}
