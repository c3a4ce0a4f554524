package training

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// EDM trains a denoiser, the teacher of distillation (Karras et al. 2022, table 1):
//
//	ln t ~ N(Mean, Std²)        L = (t² + σ_d²)/(t·σ_d)² · ‖D_θ(x + t·z; t) - x‖²/D
//
// The paper's distribution almost never draws levels above 20, where one-step generation starts: a denoiser trained with it is
// inaccurate there. High draws a fraction of the levels from that range, too.
type EDM struct {
	fixed
	Model *models.EDM

	Mean, Std float64 // of ln t; both 0: -1.2 and 1.2
	// High is the fraction of levels that are drawn log-uniformly from [1, SigmaMax] instead; 0: none, as published.
	High     float64
	SigmaMax float64 // 0: 80
}

func (e *EDM) withDefaults() EDM {
	c := *e
	if c.Mean == 0 && c.Std == 0 {
		c.Mean, c.Std = -1.2, 1.2
	}
	if c.SigmaMax == 0 {
		c.SigmaMax = 80
	}
	return c
}

// Loss draws a level and a noise for each sample and returns the weighted mean squared error. Its expectation is 1 for an untrained
// network.
func (e *EDM) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	c := e.withDefaults()
	levels := make([]float64, b.X.Dim(0))
	for i := range levels {
		if high, u := d.Samples[i].Float64() < c.High, d.Samples[i].NormFloat64(); high {
			levels[i] = math.Pow(c.SigmaMax, d.Samples[i].Float64())
		} else {
			levels[i] = math.Exp(c.Mean + c.Std*u)
		}
	}
	return e.loss(s, b, levels, d.Noise(s, b.X), d)
}

// LossAt is the loss for given levels [B] and noise z, of the images' shape.
func (e *EDM) LossAt(s *torch.Scope, b Batch, levels []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return e.loss(s, b, levels, z, Draws{Dropout: dropout})
}

func (e *EDM) loss(s *torch.Scope, b Batch, levels []float64, z *torch.Tensor, draws Draws) *torch.Tensor {
	t := torch.FromSlice(s, levels).To(s, b.X.DType())
	got := e.Model.Denoise(s, noisy(s, b.X, z, t), t, b.masked(draws.Dropout))
	sd2 := e.Model.DataVariance()
	w := make([]float64, len(levels))
	for i, t := range levels {
		w[i] = (t*t + sd2) / (t * t * sd2)
	}
	d := L2{}.Distance(s, got, b.X)
	if draws.Observe != nil {
		draws.Observe(levels, d)
	}
	return b.mean(s, d.Mul(s, torch.FromSlice(s, w).To(s, d.DType())))
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (e *EDM) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(e.Model, "edm", e.withDefaults().SigmaMax, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (e *EDM) Validate() error {
	c := e.withDefaults()
	switch {
	case c.Model == nil:
		return errors.New("denoiser: no model")
	case !(c.Std > 0):
		return fmt.Errorf("denoiser: want a standard deviation of ln t above 0, got %g", c.Std)
	case !(c.High >= 0 && c.High <= 1) || !(c.SigmaMax > 1):
		return fmt.Errorf("denoiser: want a fraction of high levels in [0, 1] and a largest level above 1, got %g and %g", c.High, c.SigmaMax)
	}
	return nil
}
