package training

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// MeanFlow trains a network of average velocities for one-step generation, without a teacher (Geng et al. 2025, eq. 9 to 11 and
// algorithm 1). The average velocity u over the times from r to τ and the velocity v at τ satisfy an identity, in which the network's own
// derivative along the trajectory replaces the unknown derivative of u:
//
//	y = (1-τ)·x + τ·z        v = z - x        u_target = v - (τ-r)·d/dτ u_θ(y, r, τ)
//	L = ‖Δ‖² / (‖Δ‖² + c)^p        Δ = u_θ(y, r, τ) - u_target
//
// Neither the target nor the weight carries gradients. The derivative is one forward-mode pass with the tangents (v, 0, 1) of
// (y, r, τ), made only for the samples whose r and τ differ, so that the network needs operators that have such derivatives
// (see torch.JVP). Both times are logit-normal, the larger is τ, and most samples have r = τ.
//
// The zero value is the paper's for ImageNet. For CIFAR-10 it has mean -2 and deviation 2 of the times, ratio 0.75 and power 0.75.
// With power 1 the loss is near 1 for good and bad models alike. A power suits images, whose errors all have about the same norm: in few
// dimensions it moves the result from the mean towards the mode, and a power near 0 is better.
type MeanFlow struct {
	fixed
	Model *models.MeanFlow

	Mean, Std float64 // of ln(τ/(1-τ)); both 0: -0.4 and 1
	Ratio     float64 // the part of the samples whose r and τ differ; 0: 0.25
	Power     float64 // p; 0: 1
	Eps       float64 // c; 0: 0.001
}

func (f *MeanFlow) withDefaults() MeanFlow {
	c := *f
	if c.Mean == 0 && c.Std == 0 {
		c.Mean, c.Std = -0.4, 1
	}
	c.Ratio = cmp.Or(c.Ratio, 0.25)
	c.Power = cmp.Or(c.Power, 1)
	c.Eps = cmp.Or(c.Eps, 1e-3)
	return c
}

// Loss draws two times and a noise for each sample and returns the mean weighted squared error.
func (f *MeanFlow) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	r, tau := f.draw(b, d)
	return f.LossAt(s, b, r, tau, d.Noise(s, b.X), d.Dropout)
}

// draw returns two times r ≤ τ for each sample.
func (f *MeanFlow) draw(b Batch, d Draws) (r, tau []float64) {
	c := f.withDefaults()
	r, tau = make([]float64, b.X.Dim(0)), make([]float64, b.X.Dim(0))
	for i := range tau {
		host := d.Samples[i]
		one, other, differ := logitNormal(host, c.Mean, c.Std), logitNormal(host, c.Mean, c.Std), host.Float64() < c.Ratio
		r[i], tau[i] = min(one, other), max(one, other)
		if !differ {
			r[i] = tau[i]
		}
	}
	return r, tau
}

// LossAt is the loss for given times r ≤ tau [B] and noise z, of the images' shape. The network and its derivative draw the same
// dropout masks.
func (f *MeanFlow) LossAt(s *torch.Scope, b Batch, r, tau []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	c := f.withDefaults()
	return inParts(s, b, r, tau, z, dropout, func(p span) *torch.Tensor {
		target := p.instant(s, f.Model, p.v)
		return adaptive(s, sumOfSquares(s, p.average(s, f.Model).Sub(s, target)), c.Eps, c.Power)
	})
}

// Try computes the losses of two different times, in which a network shows whether it has a forward-mode derivative. The trainer
// calls it before a run.
func (f *MeanFlow) Try(s *torch.Scope, b Batch, d Draws) {
	r, tau := farTimes(b)
	f.LossAt(s, b, r, tau, d.Noise(s, b.X), d.Dropout)
}

// farTimes returns two different times for each sample, for Try.
func farTimes(b Batch) (r, tau []float64) {
	r, tau = make([]float64, b.X.Dim(0)), make([]float64, b.X.Dim(0))
	for i := range tau {
		r[i], tau[i] = 0.25, 0.75
	}
	return r, tau
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step, and then Try.
func (f *MeanFlow) Validate() error {
	c := f.withDefaults()
	switch {
	case c.Model == nil:
		return errors.New("mean flow: no model")
	case !(c.Std > 0):
		return fmt.Errorf("mean flow: want a standard deviation of the times above 0, got %g with mean %g", c.Std, c.Mean)
	case !(c.Ratio > 0 && c.Ratio <= 1):
		return fmt.Errorf("mean flow: want a fraction of samples with two times in (0, 1], got %g", c.Ratio)
	case !(c.Power > 0 && c.Power <= 1) || !(c.Eps > 0):
		return fmt.Errorf("mean flow: want a power in (0, 1] and an ε above 0, got %g and %g", c.Power, c.Eps)
	}
	return c.Model.Validate()
}
