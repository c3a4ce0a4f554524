package models

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Guided adds classifier-free guidance (Ho & Salimans 2022) to a denoiser that was trained with and without its condition, such as a
// class or a prompt:
//
//	D = D_∅ + g·(D_c - D_∅)
//
// g = 1 is no guidance; 0 ignores the condition. Both predictions come from one call with twice the batch. With Scale 1 and no
// Cond.Guidance the denoiser is called once, without doubling the batch.
type Guided struct {
	Model Denoiser
	// Null is the unconditional input, with one row for all samples or one for each; see [Cond.Twice]. For classes it is the label
	// NullClass of the network's configuration, or -1 for Empirical; for prompts the text features of the empty or negative prompt. The
	// caller keeps its tensors open.
	Null  Cond
	Scale float64 // guidance scale g; 0: 1. Cond.Guidance [B] overrides it for each sample and is not passed on to Model
}

var _ Denoiser = (*Guided)(nil)

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B]. c has to set every field that Null sets.
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

// Validate reports a missing model, an empty null condition and a scale that is not finite.
func (g *Guided) Validate() error {
	if g.Model == nil {
		return errors.New("guidance: no model")
	}
	if g.Null.Empty() {
		return errors.New("guidance: " + emptyNull)
	}
	if math.IsNaN(g.Scale) || math.IsInf(g.Scale, 0) {
		return fmt.Errorf("guidance scale: want a finite number, got %g", g.Scale)
	}
	return nil
}
