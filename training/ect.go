package training

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// ECT is easy consistency tuning (Geng et al. 2024). It starts from a trained denoiser, since a denoiser is consistent with the clean
// image (r = 0), and moves the lower level r of a pair closer to the upper one stage by stage:
//
//	ln t ~ N(Mean, Std²)        r = max(0, t·(1 - n(t)/Q^(a+1)))        n(t) = 1 + K·sigmoid(-B·t)
//	L = ‖f_θ(x + t·z, t) - f_θ⁻(x + r·z, r)‖ / (t - r)
//
// with stages a = 0, 1, … of equal length. If r is 0 the target is the clean image. The model's boundary has to be at zero.
type ECT struct {
	fixed
	Model    ConsistencyModel // its boundary at zero: see models.AtZero
	Distance Distance         // nil: Norm

	Steps  int     // length of the run
	Stages int     // 0: 8
	Q      float64 // 0: 2
	K, B   float64 // 0: 8 and 1

	Mean, Std float64 // of ln t; both 0: -1.1 and 2
}

func (e *ECT) withDefaults() ECT {
	c := *e
	c.Q = cmp.Or(c.Q, 2)
	c.K = cmp.Or(c.K, 8)
	c.B = cmp.Or(c.B, 1)
	if c.Mean == 0 && c.Std == 0 {
		c.Mean, c.Std = -1.1, 2
	}
	c.Stages = cmp.Or(c.Stages, 8)
	return c
}

// stage returns a for step k.
func (e *ECT) stage(k int) int {
	c := e.withDefaults()
	return min(int(float64(k)*float64(c.Stages)/float64(c.Steps)), c.Stages-1)
}

// Lower returns r for the level t at step k.
func (e *ECT) Lower(t float64, k int) float64 {
	c := e.withDefaults()
	n := 1 + c.K/(1+math.Exp(c.B*t))
	return math.Max(0, t*(1-n/math.Pow(c.Q, float64(e.stage(k)+1))))
}

// Loss draws a level and a noise for each sample and returns the mean weighted distance.
func (e *ECT) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	low, high := e.draw(k, b, d)
	return e.pair(d.Observe).loss(s, b, low, high, d.Noise(s, b.X), d.Dropout)
}

// draw returns a pair of levels for each sample.
func (e *ECT) draw(k int, b Batch, d Draws) (low, high []float64) {
	c := e.withDefaults()
	n := b.X.Dim(0)
	low, high = make([]float64, n), make([]float64, n)
	for i := range high {
		high[i] = math.Exp(c.Mean + c.Std*d.Samples[i].NormFloat64())
		low[i] = e.Lower(high[i], k)
	}
	return low, high
}

// LossAt is the loss for given levels low < high [B] and noise z, of the images' shape.
func (e *ECT) LossAt(s *torch.Scope, b Batch, low, high []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return e.pair(nil).loss(s, b, low, high, z, dropout)
}

func (e *ECT) pair(observe func([]float64, *torch.Tensor)) pair {
	return pair{e.Model, nil, sameNoise, cmp.Or[Distance](e.Distance, Norm{}), InverseGap, observe}
}

// Stats returns the stage a.
func (e *ECT) Stats(k int) map[string]float64 {
	return map[string]float64{"stage": float64(e.stage(k))}
}

// atZero reports whether a consistency function is the identity at noise level 0.
func atZero(f models.ConsistencyFunction) bool {
	b, ok := f.(interface{ ZeroBoundary() bool })
	return ok && b.ZeroBoundary()
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (e *ECT) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(e.Model, "ect", 80, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (e *ECT) Validate() error {
	c := e.withDefaults()
	switch {
	case c.Model == nil:
		return errors.New("easy consistency tuning: no model")
	case !atZero(c.Model):
		return errors.New("easy consistency tuning: want a model with its boundary at zero (models.AtZero), since the lower level of a pair can be 0")
	case c.Steps < 1:
		return fmt.Errorf("easy consistency tuning: want at least 1 step, got %d", c.Steps)
	case c.Stages < 1 || c.Stages > 64:
		return fmt.Errorf("easy consistency tuning: want 1 to 64 stages, got %d", c.Stages)
	case !(c.Q > 1):
		return fmt.Errorf("easy consistency tuning: want q above 1, got %g", c.Q)
	case !(c.K >= 0) || !(c.B > 0) || !(c.Std > 0):
		return fmt.Errorf("easy consistency tuning: want k from 0, b and the standard deviation above 0, got %g, %g and %g", c.K, c.B, c.Std)
	}
	return nil
}
