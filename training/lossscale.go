package training

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// LossScale is dynamic loss scaling (Micikevicius et al. 2018), for gradients that pass through a network in float16, where small ones are
// rounded to zero: the loss is multiplied by a scale before the backward pass, and the gradients are divided by it before they are clipped.
// The scale starts at Start. It is halved by a step whose gradients overflow, which is skipped, and doubled after Growth steps in a row without
// overflow, as by PyTorch's GradScaler. It is a power of two, so that it rounds nothing, and part of a checkpoint.
//
// Skipped steps are logged and counted in Result.Overflows. They are not divergence, which the Guard handles: that is a loss that is not
// finite, or gradients that are not although the scale is down to 1.
//
// Networks in float32 and bfloat16 need none.
type LossScale struct {
	Start  float64 // initial scale, a power of two; 0: 2¹⁶
	Growth int     // steps in a row without overflow after which the scale is doubled; 0: 2000
}

func (l *LossScale) start() float64 {
	if l.Start == 0 {
		return 1 << 16
	}
	return l.Start
}

func (l *LossScale) growth() int {
	if l.Growth == 0 {
		return 2000
	}
	return l.Growth
}

func (l *LossScale) validate() error {
	if l == nil {
		return nil
	}
	if !powerOfTwo(l.start()) || l.start() < 1 {
		return fmt.Errorf("trainer: LossScale.Start: want a power of two of at least 1, got %g", l.Start)
	}
	if l.Growth < 0 {
		return fmt.Errorf("trainer: LossScale.Growth: want at least 1 step, or 0 for 2000, got %d", l.Growth)
	}
	return nil
}

// powerOfTwo reports whether x is one that float32 holds, so that multiplying by it and its reciprocal is exact.
func powerOfTwo(x float64) bool {
	f, exponent := math.Frexp(x)
	return f == 0.5 && exponent > -100 && exponent <= 127
}

// scaling is the state of loss scaling. It is part of a checkpoint.
type scaling struct {
	Scale     float64 `json:"loss_scale,omitempty"` // 0: no loss scaling
	Steady    int     `json:"steady,omitempty"`     // steps in a row without overflow since the scale last changed
	Overflows int     `json:"overflows,omitempty"`  // skipped steps in total
}

// valid reports whether a checkpoint can hold this state after that many steps.
func (c scaling) valid(steps int) bool {
	return (c.Scale == 0 || (c.Scale >= 1 && powerOfTwo(c.Scale))) && c.Steady >= 0 && c.Overflows >= 0 && c.Overflows <= steps
}

// fits compares the state in a checkpoint with the run's settings.
func (c scaling) fits(l *LossScale) error {
	switch {
	case c.Scale != 0 && l == nil:
		return errors.New("was saved by a run with loss scaling, this run has none: set LossScale")
	case c.Scale == 0 && l != nil:
		return errors.New("was saved by a run without loss scaling, this run has it: remove LossScale")
	}
	return nil
}

// overflowError is the error of a step whose scaled gradients are not finite.
type overflowError struct{ scale float64 }

func (e *overflowError) Error() string {
	return fmt.Sprintf("gradients overflowed with a loss scale of %g", e.scale)
}

// unscale divides the gradients by the scale.
func (c scaling) unscale(s *torch.Scope, params []*torch.Tensor) {
	var grads []*torch.Tensor
	for _, p := range params {
		if g := p.Grad(s); g != nil {
			grads = append(grads, g)
		}
	}
	if len(grads) > 0 {
		torch.ForeachMulInPlace(s, grads, 1/c.Scale)
	}
}

// overflowed halves the scale after a skipped step. It reports false at a scale of 1, where gradients that are not finite mean divergence.
func (c *scaling) overflowed() bool {
	if c.Scale <= 1 {
		return false
	}
	c.Scale, c.Steady, c.Overflows = c.Scale/2, 0, c.Overflows+1
	return true
}

// steady counts a step that was taken.
func (c *scaling) steady(l *LossScale) {
	if l == nil {
		return
	}
	if c.Steady++; c.Steady >= l.growth() {
		c.Steady = 0
		if powerOfTwo(2 * c.Scale) {
			c.Scale *= 2
		}
	}
}
