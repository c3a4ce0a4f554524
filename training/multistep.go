package training

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// DenoiserModel is a trainable denoiser: a *models.EDM or another parameterisation of package models, or a user's own type.
type DenoiserModel interface {
	models.Denoiser
	Module
}

// MultistepCM trains a multistep consistency model (Heek, Hoogeboom & Salimans 2024, algorithm 1). The noise levels are divided into segments,
// and the model learns to move along the ODE from anywhere in a segment to the segment's end, by one DDIM step along its prediction f. With
// one segment that is a consistency model; with as many as there are levels, a denoiser. For adjacent levels t > u in a segment that
// ends at level e, x_t = x + t·z, and D the teacher's prediction (distillation) or x itself (training):
//
//	x_u = D + q·(x_t - D)/t        q = √(u² + (1 - u/t)²·‖D - x‖²/‖(x_t - D)/t‖²)        aDDIM; q = u is DDIM
//	x_e = f⁻(x_u, u) + e/u·(x_u - f⁻(x_u, u))
//	L = √(1/t² + 1)·d(f_θ(x_t, t), f*)        f* the prediction whose DDIM step from x_t at t ends at x_e
//
// f⁻ has no gradients. aDDIM raises the teacher's variance by what a mean prediction lacks (algorithm 3); without a teacher it is DDIM.
// Sampling takes Euler's steps along Levels. x_t cancels from f* for DDIM, and the formula used is accurate for short steps, too:
//
//	f* = ((1 - e/u)·f⁻(x_u, u) + (e/u - e/t)·D + e/u·(q-u)·(x_t - D)/t)/(1 - e/t)
//
// The paper's distance is the norm, with the weight of a v-prediction loss: SNR + 1 for squared errors, so its root for the norm. Its time is that of a
// cosine schedule; here the levels are Karras's, the last of them 0. The number of levels grows exponentially, from First to Last over
// half of the run: 64 to 1280 in 100,000 of 200,000 steps, as published.
type MultistepCM struct {
	fixed
	Model    DenoiserModel
	Teacher  models.Denoiser // nil: none, training from data
	Segments int             // the number of sampling steps; 0: 4
	Steps    int             // length of the run

	First, Last int      // number of levels at the start and the end, rounded to a multiple of Segments; 0: 64 and 1280
	Distance    Distance // nil: Norm
	DDIM        bool     // the teacher's steps are DDIM's, not aDDIM's

	SigmaMin float64 // the smallest noise level before 0; 0: 0.002
	SigmaMax float64 // the largest noise level; 0: 80
	Rho      float64 // the spacing of the levels; 0: 7
}

func (m *MultistepCM) withDefaults() MultistepCM {
	c := *m
	c.SigmaMin = cmp.Or(c.SigmaMin, 0.002)
	c.SigmaMax = cmp.Or(c.SigmaMax, 80)
	c.Rho = cmp.Or(c.Rho, 7)
	c.Segments = cmp.Or(c.Segments, 4)
	c.First = cmp.Or(c.First, 64)
	c.Last = cmp.Or(c.Last, 1280)
	c.Distance = cmp.Or[Distance](c.Distance, Norm{})
	return c
}

// PerSegment returns the number of levels of a segment at step k.
func (m *MultistepCM) PerSegment(k int) int {
	c := m.withDefaults()
	at := math.Min(1, 2*float64(k)/float64(c.Steps))
	all := float64(c.First) * math.Pow(float64(c.Last)/float64(c.First), at)
	return max(1, int(math.Round(all/float64(c.Segments))))
}

// Levels returns the noise levels for sampling with Euler's method, which is DDIM: the segments' ends, largest first and ending with 0.
func (m *MultistepCM) Levels(int) []float64 {
	return m.levels(m.withDefaults().Segments)
}

// levels is the grid of n steps.
func (m *MultistepCM) levels(n int) []float64 {
	c := m.withDefaults()
	levels := noise.Karras(n+1, c.SigmaMin, c.SigmaMax, c.Rho)
	slices.Reverse(levels)
	levels[n] = 0
	return levels
}

// Loss draws a pair of levels and a noise for each sample and returns the mean weighted distance.
func (m *MultistepCM) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	c, per := m.withDefaults(), m.PerSegment(k)
	levels := m.levels(c.Segments * per)
	n := b.X.Dim(0)
	t, next, end := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range t {
		j := d.Samples[i].IntN(len(levels) - 1)
		t[i], next[i], end[i] = levels[j], levels[j+1], levels[(j/per+1)*per]
	}
	return m.loss(s, b, t, next, end, d.Noise(s, b.X), d)
}

// LossAt is the loss for given levels t > next ≥ end [B], the last of which are the segments' ends, and noise z, of the images' shape. The
// teacher runs without dropout.
func (m *MultistepCM) LossAt(s *torch.Scope, b Batch, t, next, end []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return m.loss(s, b, t, next, end, z, Draws{Dropout: dropout})
}

func (m *MultistepCM) loss(s *torch.Scope, b Batch, t, next, end []float64, z *torch.Tensor, d Draws) *torch.Tensor {
	c := m.withDefaults()
	of := func(s *torch.Scope, f func(t, u, e float64) float64) *torch.Tensor {
		v := make([]float64, len(t))
		for i := range v {
			v[i] = f(t[i], next[i], end[i])
		}
		return torch.FromSlice(s, v).To(s, b.X.DType())
	}
	at := of(s, func(t, _, _ float64) float64 { return t })
	x := noisy(s, b.X, z, at)
	target := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		origin := b.X
		if c.Teacher != nil {
			origin = c.Teacher.Denoise(s, x, at, b.Cond)
		}
		slope := x.Sub(s, origin).Div(s, at.PerSample(s, x.NDim()))
		more := c.widened(s, b.X, origin, slope, of) // q - u
		low := of(s, func(_, u, _ float64) float64 { return u })
		point := origin.Add(s, slope.MulPerSample(s, low.Add(s, more)))
		// The network is not needed where the segment ends at u, and may not be defined there, at 0: its factor is 0.
		ahead := m.Model.Denoise(s, point, low.ClampMin(s, c.SigmaMin), b.masked(d.Dropout))
		scaled := func(x *torch.Tensor, by func(t, u, e float64) float64) *torch.Tensor {
			return x.MulPerSample(s, of(s, by))
		}
		return scaled(ahead, func(t, u, e float64) float64 { return (1 - kept(e, u)) / (1 - e/t) }).
			Add(s, scaled(origin, func(t, u, e float64) float64 { return (kept(e, u) - e/t) / (1 - e/t) })).
			Add(s, scaled(slope, func(t, u, e float64) float64 { return kept(e, u) / (1 - e/t) }).MulPerSample(s, more))
	})
	got := m.Model.Denoise(s, x, at, b.masked(d.Dropout))
	each := c.Distance.Distance(s, got, target)
	if d.Observe != nil {
		d.Observe(t, each)
	}
	return b.mean(s, each.Mul(s, of(s, func(t, _, _ float64) float64 { return math.Sqrt(1/(t*t) + 1) })))
}

// kept is e/u, the factor of x_u in the step to the segment's end, which is 1 if the segment ends at u.
func kept(e, u float64) float64 {
	if e == u {
		return 1
	}
	return e / u
}

// widened returns q - u of each sample, [B]: what aDDIM adds to DDIM's noise.
func (m *MultistepCM) widened(s *torch.Scope, x, origin, slope *torch.Tensor, of func(s *torch.Scope, f func(t, u, e float64) float64) *torch.Tensor) *torch.Tensor {
	low := of(s, func(_, u, _ float64) float64 { return u })
	if m.DDIM || m.Teacher == nil {
		return torch.ZerosLike(s, low)
	}
	lacking := sumOfSquares(s, origin.Sub(s, x)).Div(s, sumOfSquares(s, slope).ClampMin(s, 1e-12))
	share := of(s, func(t, u, _ float64) float64 { return (1 - u/t) * (1 - u/t) })
	return low.Square(s).Add(s, lacking.Mul(s, share)).Sqrt(s).Sub(s, low)
}

// Stats returns the number of levels at step k as "levels".
func (m *MultistepCM) Stats(k int) map[string]float64 {
	return map[string]float64{"levels": float64(m.withDefaults().Segments * m.PerSegment(k))}
}

// Metadata describes a snapshot's model, with the levels that it is for, so that package checkpoint can read it; nothing for a network of the
// user's own.
func (m *MultistepCM) Metadata(step int, images int64) (map[string]string, error) {
	method := "msct"
	if m.Teacher != nil {
		method = "mscd"
	}
	levels := m.Levels(step)
	return metadata(m.Model, method, m.withDefaults().SigmaMax, step, images, levels[:len(levels)-1]...)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (m *MultistepCM) Validate() error {
	c := m.withDefaults()
	switch {
	case c.Model == nil:
		return errors.New("multistep consistency: no model")
	case c.Steps < 1:
		return fmt.Errorf("multistep consistency: want at least 1 step, got %d", c.Steps)
	case c.Segments < 1 || c.Segments > 1024:
		return fmt.Errorf("multistep consistency: want 1 to 1024 segments, or 0 for 4, got %d", c.Segments)
	case c.First < c.Segments || c.Last < c.First || c.Last > 1<<20:
		return fmt.Errorf("multistep consistency: want at least one level for each of %d segments at the start, and at the end no fewer and at most %d, got %d and %d",
			c.Segments, 1<<20, c.First, c.Last)
	case !(c.SigmaMin > 0) || !(c.SigmaMax > c.SigmaMin) || !(c.Rho > 0):
		return fmt.Errorf("multistep consistency: want a smallest level above 0, a larger largest one and ρ above 0, got %g, %g and %g",
			c.SigmaMin, c.SigmaMax, c.Rho)
	}
	return nil
}
