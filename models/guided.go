package models

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Guided is classifier-free guidance (Ho & Salimans 2022) of a denoiser that knows classes and the absence of one:
//
//	D = D_∅ + w·(D_class - D_∅)
//
// w = 1 is no guidance and 0 ignores the class. Both predictions come from one call with twice the batch; w = 1 for all costs
// what the denoiser alone does.
type Guided struct {
	Model Denoiser
	Null  int     // the label that stands for no class: NullClass of the network's configuration; for Empirical, -1
	Scale float64 // w; 0: 1. Cond.Guidance [B], which is not passed on to Model, takes precedence, sample by sample
}

var _ Denoiser = (*Guided)(nil)

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B]. Classes are needed.
func (g *Guided) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	if c.Class == nil {
		panic(&torch.Error{Op: "guidance", Msg: "there is no class to guide to: give classes, or use the denoiser without guidance"})
	}
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
		twice := func(a, b *torch.Tensor) *torch.Tensor { return torch.Cat(s, []*torch.Tensor{a, b}, 0) }
		none := torch.Full(s, float64(g.Null), c.Class.DType(), c.Class.Shape()...)
		c.Class = twice(none, c.Class)
		if c.Until != nil {
			c.Until = twice(c.Until, c.Until)
		}
		both := g.Model.Denoise(s, twice(x, x), twice(t, t), c).Chunk(s, 2, 0)
		return both[0].Add(s, scale(s, both[1].Sub(s, both[0]), w))
	})
}

// Validate reports what cannot work.
func (g *Guided) Validate() error {
	if g.Model == nil {
		return errors.New("guidance: no model")
	}
	if math.IsNaN(g.Scale) || math.IsInf(g.Scale, 0) {
		return fmt.Errorf("guidance: want a finite scale, got %g", g.Scale)
	}
	return nil
}
