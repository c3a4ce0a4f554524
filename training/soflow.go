package training

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// SoFlow trains a solution function f(y, τ, r), which jumps along a flow's trajectory from time τ to r, for one-step generation, without a
// teacher and without derivatives (Luo et al. 2025, "SoFlow", section 3). With v = z - x and times r ≤ l < τ,
//
//	f(y, τ, r) = y - (τ-r)·u(y, r, τ), which is y for r = τ        y = (1-τ)·x + τ·z
//	δ = (f_θ(y, τ, r) - f_θ⁻(y - (τ-l)·v, l, r))/(τ-l)        l = τ - g(k)·(τ-r)
//	L = ½·‖f_θ(y, τ, r) - f_θ⁻(y - (τ-l)·v, l, r)‖²/D / ((τ-l)·(τ-r)) / (‖δ‖²/D + c)^p
//
// and for a fraction of the samples, those of flow matching, ‖u_θ(y, τ, τ) - v‖²/D / (‖u_θ - v‖²/D + c)^p. Weights have no gradients. The
// gap g(k) falls exponentially over the run, from First to Last of the way. For g = 1 the target is the sample's own velocity.
//
// This is the parameterisation of the published models ("Euler" and linear noise in their code), in which the loss is ½/D of
// [AlphaFlow]'s with α = g(k): u_θ is compared with α·v + (1-α)·u_θ⁻. The factor ½ is the published code's, which computes the gradient
// without the loss.
//
// The zero value is the published configuration for CIFAR-10, which has no samples of flow matching. For ImageNet they have Flow 0.75, First 0.1, Last
// 0.002, Power 1, Eps 0.01, mean and deviation of the times (-0.2, 1) for flow matching, (0.2, 0.8) for τ and (-1, 0.8) for r. The published
// guidance in training is not part of it.
type SoFlow struct {
	fixed
	Model *models.MeanFlow

	Steps       int     // K, the length of the run
	First, Last float64 // g at the start and the end; both 0: 1 and 1/3200
	Flow        float64 // the fraction of samples of flow matching, 0 to 1
	Power       float64 // p; 0: 0.75
	Eps         float64 // c; 0: 0.001

	Mean, Std       float64 // of ln(τ/(1-τ)); both 0: -0.9 and 1.6
	EndMean, EndStd float64 // of ln(r/(1-r)), where r is at most τ - 0.0001; both 0: -4 and 1.6
	// FlowMean and FlowStd are those of flow matching; both 0: -0.9 and 1.6.
	FlowMean, FlowStd float64
}

// leastGap is the smallest step between two times.
const leastGap = 1e-4

func (f *SoFlow) withDefaults() SoFlow {
	c := *f
	both := func(a, b *float64, x, y float64) {
		if *a == 0 && *b == 0 {
			*a, *b = x, y
		}
	}
	both(&c.First, &c.Last, 1, 1./3200)
	both(&c.Mean, &c.Std, -0.9, 1.6)
	both(&c.EndMean, &c.EndStd, -4, 1.6)
	both(&c.FlowMean, &c.FlowStd, -0.9, 1.6)
	c.Power = cmp.Or(c.Power, 0.75)
	c.Eps = cmp.Or(c.Eps, 1e-3)
	return c
}

// Gap returns g at step k.
func (f *SoFlow) Gap(k int) float64 {
	c := f.withDefaults()
	return c.First * math.Pow(c.Last/c.First, math.Min(1, float64(k)/float64(c.Steps)))
}

// Loss draws times and a noise for each sample and returns the mean weighted squared error.
func (f *SoFlow) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	c, gap := f.withDefaults(), f.Gap(k)
	n := b.X.Dim(0)
	end, mid, tau := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range tau {
		host := d.Samples[i]
		if host.Float64() < c.Flow {
			tau[i] = logitNormal(host, c.FlowMean, c.FlowStd)
			end[i], mid[i] = tau[i], tau[i]
			continue
		}
		tau[i] = max(logitNormal(host, c.Mean, c.Std), leastGap)
		end[i] = min(logitNormal(host, c.EndMean, c.EndStd), tau[i]-leastGap)
		mid[i] = max(end[i], min(tau[i]-gap*(tau[i]-end[i]), tau[i]-leastGap))
	}
	return f.LossAt(s, b, end, mid, tau, d.Noise(s, b.X), d.Dropout)
}

// LossAt is the loss for given times end ≤ mid < tau [B], which are r, l and τ, and noise z, of the images' shape; samples whose end is tau
// are those of flow matching. Both jumps draw the same dropout masks.
func (f *SoFlow) LossAt(s *torch.Scope, b Batch, end, mid, tau []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	c := f.withDefaults()
	part := make([]float64, len(tau))
	for i := range part {
		part[i] = (tau[i] - mid[i]) / (tau[i] - end[i])
	}
	return inParts(s, b, end, tau, z, dropout, func(p span) *torch.Tensor {
		if !p.apart {
			return adaptive(s, meanOfSquares(s, p.average(s, f.Model).Sub(s, p.v)), c.Eps, c.Power)
		}
		g := p.ofRows(s, part)
		target := p.stepped(s, f.Model, p.v, g)
		return secant(s, meanOfSquares(s, p.average(s, f.Model).Sub(s, target)), g, c.Eps, c.Power).DivScalar(s, 2)
	})
}

// meanOfSquares returns ‖x‖²/D of each sample, [B].
func meanOfSquares(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return x.Square(s).Flatten(s, 1, -1).MeanDim(s, false, 1)
}

// Stats returns g as "gap".
func (f *SoFlow) Stats(k int) map[string]float64 { return map[string]float64{"gap": f.Gap(k)} }

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (f *SoFlow) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(f.Model, "soflow", 80, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (f *SoFlow) Validate() error {
	c := f.withDefaults()
	switch {
	case c.Model == nil:
		return errors.New("solution flow: no model")
	case c.Steps < 1:
		return fmt.Errorf("solution flow: want at least 1 step, got %d", c.Steps)
	case !(c.First > 0 && c.First <= 1) || !(c.Last > 0 && c.Last <= 1):
		return fmt.Errorf("solution flow: want gaps in (0, 1] at the start and the end, got %g and %g", c.First, c.Last)
	case !(c.Flow >= 0 && c.Flow <= 1):
		return fmt.Errorf("solution flow: want a fraction of flow-matching samples in [0, 1], got %g", c.Flow)
	case !(c.Std > 0) || !(c.EndStd > 0) || !(c.FlowStd > 0):
		return fmt.Errorf("solution flow: want standard deviations of the times above 0, got %g, %g and %g", c.Std, c.EndStd, c.FlowStd)
	case !(c.Power > 0 && c.Power <= 1) || !(c.Eps > 0):
		return fmt.Errorf("solution flow: want a power in (0, 1] and an ε above 0, got %g and %g", c.Power, c.Eps)
	}
	return c.Model.Validate()
}
