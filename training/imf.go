package training

import (
	"cmp"
	"errors"
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// IMF is improved MeanFlow (Geng et al. 2025, "Improved Mean Flows", eq. 12 to 14 and algorithm 1). It is [MeanFlow] with another direction of the
// derivative: the velocity that the network predicts at y, not the sample's z - x. The loss is then a regression of a function of y on
// the sample's velocity, with less variance:
//
//	V = u_θ(y, r, τ) + (τ-r)·d/dτ u⁻(y, r, τ) along (v̂, 0, 1)        v̂ = u⁻(y, τ, τ), or Head's prediction
//	L = ‖V - v‖²/(‖V - v‖² + c)^p        v = z - x
//
// Head learns v̂ by ‖v̂ - v‖²/(‖v̂ - v‖² + c)^p, added to the loss. It is a network of its own, of the same kind, used for training only; the
// published one shares all but its last blocks with the model. Without it the model's own boundary predicts v̂, the paper's other variant.
//
// With a guidance scale ω ≥ 1 for each sample (Batch.Cond.Guidance), the model learns the average velocities of the guided flow for every
// scale: v is replaced by v + (1 - 1/ω)·(v̂(class, ω) - v̂(null, 1)), and v̂ by v̂(class, ω). Samples without class keep v. The paper's
// interval of times in which guidance applies, another input of its network, is the whole of [0, 1] here.
//
// The embedded MeanFlow holds the model, the times, the ratio, the power and c; Ratio and Eps are 0.5 and 0.01 here if they are 0, as published.
type IMF struct {
	MeanFlow
	Head *models.MeanFlow // predicts v̂ as u(y, τ, τ), trained with the model; nil: the model itself
	// Null is the label of the null class, for guidance.
	Null int
}

func (f *IMF) withDefaults() IMF {
	c := *f
	c.Ratio = cmp.Or(c.Ratio, 0.5)
	c.Eps = cmp.Or(c.Eps, 0.01)
	c.MeanFlow = c.MeanFlow.withDefaults()
	return c
}

// Loss draws two times and a noise for each sample and returns the mean weighted squared error.
func (f *IMF) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	c := f.withDefaults()
	r, tau := c.draw(b, d)
	return f.LossAt(s, b, r, tau, d.Noise(s, b.X), d.Dropout)
}

// LossAt is the loss for given times r ≤ tau [B] and noise z, of the images' shape. All evaluations of networks for a sample draw the same
// dropout masks.
func (f *IMF) LossAt(s *torch.Scope, b Batch, r, tau []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	c := f.withDefaults()
	return inParts(s, b, r, tau, z, dropout, func(p span) *torch.Tensor { return c.losses(s, p) })
}

// losses returns those of some of a batch's samples. f has its defaults.
func (f *IMF) losses(s *torch.Scope, p span) *torch.Tensor {
	weighted := func(x *torch.Tensor) *torch.Tensor { return adaptive(s, sumOfSquares(s, x), f.Eps, f.Power) }
	var direction *torch.Tensor
	if p.apart || p.cond.Guidance != nil {
		direction = s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return f.predicted(s, p, p.cond) })
	}
	if p.cond.Guidance != nil {
		p.v = s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return f.guided(s, p, direction) })
	}
	target := p.instant(s, f.Model, direction)
	sum := weighted(p.average(s, f.Model).Sub(s, target))
	if f.Head != nil {
		sum = sum.Add(s, weighted(f.predicted(s, p, p.cond).Sub(s, p.v)))
	}
	return sum
}

// predicted returns v̂ at y.
func (f *IMF) predicted(s *torch.Scope, p span, c models.Cond) *torch.Tensor {
	by := f.Head
	if by == nil {
		by = f.Model
	}
	return by.AverageVelocity(s, p.y, p.at, p.at, c)
}

// guided returns the samples' guided velocities, for which v̂ is predicted.
func (f *IMF) guided(s *torch.Scope, p span, predicted *torch.Tensor) *torch.Tensor {
	if p.cond.Class == nil {
		panic(&torch.Error{Op: "improved mean flow", Msg: "the batch has guidance scales (Cond.Guidance) but no classes (Cond.Class)"})
	}
	dropped := p.cond.Class.EqScalar(s, float64(f.Null))
	without := p.cond
	without.Class = torch.Full(s, float64(f.Null), p.cond.Class.DType(), p.cond.Class.Shape()...)
	without.Guidance = torch.Ones(s, p.cond.Guidance.DType(), p.cond.Guidance.Shape()...)
	share := p.cond.Guidance.Reciprocal(s).Neg(s).AddScalar(s, 1).MaskedFill(s, dropped, 0)
	return p.v.Add(s, predicted.Sub(s, f.predicted(s, p, without)).MulPerSample(s, share))
}

// Try computes the losses of two different times, in which a network shows whether it has a forward-mode derivative. The trainer
// calls it before a run.
func (f *IMF) Try(s *torch.Scope, b Batch, d Draws) {
	r, tau := farTimes(b)
	f.LossAt(s, b, r, tau, d.Noise(s, b.X), d.Dropout)
}

// Parameters yields those of Head, as "head.…". They have to be in the optimizer.
func (f *IMF) Parameters() iter.Seq2[string, *torch.Tensor] { return f.State() }

// State yields Head's weights, for checkpoints.
func (f *IMF) State() iter.Seq2[string, *torch.Tensor] {
	if f.Head == nil {
		return f.fixed.State()
	}
	return prefixed("head.", f.Head.Parameters())
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (f *IMF) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(f.Model, "imf", 80, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step, and then Try.
func (f *IMF) Validate() error {
	c := f.withDefaults()
	switch {
	case c.Head != nil && c.Head == c.Model:
		return errors.New("improved mean flow: the head is the model: want a network of its own, or nil")
	case c.Null < 0:
		return fmt.Errorf("improved mean flow: want the label of the null class from 0, got %d", c.Null)
	}
	if c.Head != nil {
		if err := c.Head.Validate(); err != nil {
			return fmt.Errorf("improved mean flow: head: %w", err)
		}
		for name, p := range c.Head.Parameters() {
			if !p.RequiresGrad() {
				return fmt.Errorf("improved mean flow: the head's weight %s requires no gradients: want a network that is trained, not a clone for a target", name)
			}
		}
	}
	return c.MeanFlow.Validate()
}
