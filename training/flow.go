package training

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Flow is flow matching (Lipman et al. 2022; Liu et al. 2022). It trains a network whose trajectories are nearly straight, such as a
// teacher:
//
//	y = (1-τ)·x + τ·z        L = ‖v_θ(y, τ) - (z - x)‖²/D
//
// With Reflow, x is the sample that a trained flow generates from the noise z, instead of an independent image. This straightens the
// trajectories further (Liu et al. 2022, algorithm 1).
type Flow struct {
	fixed
	Model *models.Flow

	// Mean and Std are of ln(τ/(1-τ)), which is normal (logit-normal τ, Esser et al. 2024, eq. 19); both 0: τ is uniform.
	Mean, Std float64

	Reflow *models.Flow // a trained flow; nil: none
	Steps  int          // of Euler's method from noise to data, in reflow; 0: 50
}

func (f *Flow) steps() int {
	if f.Steps == 0 {
		return 50
	}
	return f.Steps
}

// Loss draws a time and a noise for each sample and returns the mean squared error of the velocity.
func (f *Flow) Loss(s *torch.Scope, _ int, b Batch, d Draws) *torch.Tensor {
	times := make([]float64, b.X.Dim(0))
	for i := range times {
		if f.Std == 0 {
			times[i] = d.Samples[i].Float64()
		} else {
			times[i] = 1 / (1 + math.Exp(-f.Mean-f.Std*d.Samples[i].NormFloat64()))
		}
	}
	return f.LossAt(s, b, times, d.Noise(s, b.X), d.Dropout)
}

// LossAt is the loss for given times [B] and noise z, of the images' shape.
func (f *Flow) LossAt(s *torch.Scope, b Batch, times []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	x := b.X
	if f.Reflow != nil {
		x = f.End(s, z, b.Cond)
	}
	tau := torch.FromSlice(s, times).To(s, x.DType())
	v := f.Model.Velocity(s, models.Interpolate(s, x, z, tau), tau, b.masked(dropout))
	return b.mean(s, L2{}.Distance(s, v, z.Sub(s, x)))
}

// End returns the samples that the flow Reflow generates from noise z [B, ...].
func (f *Flow) End(s *torch.Scope, z *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		y, n := z, f.steps()
		for i := n; i > 0; i-- {
			next := s.Tidy(func(s *torch.Scope) *torch.Tensor {
				tau := torch.Full(s, float64(i)/float64(n), z.DType(), z.Dim(0))
				return y.Sub(s, f.Reflow.Velocity(s, y, tau, c).DivScalar(s, float64(n)))
			})
			if y != z {
				y.Free()
			}
			y = next
		}
		return y
	})
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (f *Flow) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(f.Model, "flow", 80, step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (f *Flow) Validate() error {
	switch {
	case f.Model == nil:
		return errors.New("flow matching: no model")
	case !(f.Std >= 0) || (f.Std == 0 && f.Mean != 0):
		return fmt.Errorf("flow matching: want a standard deviation above 0, got %g with mean %g", f.Std, f.Mean)
	case f.Steps < 0:
		return fmt.Errorf("flow matching: want at least 1 step of the reflow's trained flow, got %d", f.Steps)
	}
	if err := f.Model.Validate(); err != nil {
		return fmt.Errorf("flow matching: %w", err)
	}
	return nil
}
