package models

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Guided is classifier-free guidance (Ho & Salimans 2022) of a denoiser that knows a condition, such as a class or a text, and the
// absence of one:
//
//	D = D_∅ + g·(D_c - D_∅)
//
// g = 1 is no guidance and 0 ignores the condition. Both predictions come from one call with twice the batch; g = 1 for all costs
// what the denoiser alone does.
type Guided struct {
	Model Denoiser
	// Null has what stands for no condition, as one row for all samples or a row for each; see [Cond.Twice]. Of classes it is the label
	// NullClass of the network's configuration, and for Empirical -1; of text the features of the empty prompt, or a negative prompt's. The
	// caller keeps its tensors open.
	Null  Cond
	Scale float64 // g; 0: 1. Cond.Guidance [B], which is not passed on to Model, takes precedence, sample by sample
}

var _ Denoiser = (*Guided)(nil)

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B]. The condition that Null replaces is needed.
func (g *Guided) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	c.needs(g.Null)
	checkLevels("guidance", x, t)
	w := c.Guidance
	c.Guidance = nil
	if w == nil && orOne(g.Scale) == 1 {
		return g.Model.Denoise(s, x, t, c)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		if w == nil {
			w = torch.Full(s, orOne(g.Scale), x.DType(), 1)
		}
		c := c.Twice(s, g.Null, x.Dim(0))
		twice := torch.Cat(s, []*torch.Tensor{x, x}, 0)
		if t.NumEl() != 1 {
			t = torch.Cat(s, []*torch.Tensor{t, t}, 0)
		}
		both := g.Model.Denoise(s, twice, t, c).Chunk(s, 2, 0)
		return both[0].Add(s, both[1].Sub(s, both[0]).MulPerSample(s, w))
	})
}

// Validate reports what cannot work.
func (g *Guided) Validate() error {
	if g.Model == nil {
		return errors.New("guidance: no model")
	}
	if g.Null.empty() {
		return errors.New("guidance: " + emptyNull)
	}
	if math.IsNaN(g.Scale) || math.IsInf(g.Scale, 0) {
		return fmt.Errorf("guidance: want a finite scale, got %g", g.Scale)
	}
	return nil
}
