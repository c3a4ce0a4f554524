package training

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Solver takes one step along the probability-flow ODE from noise levels t [B] to next [B]; see package models/solver.
type Solver interface {
	Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor
}

// CD is consistency distillation (Song et al. 2023, algorithm 2): the model is trained to give the same output at a point and after one
// solver step from it along the teacher's trajectory:
//
//	L = λ·d( f_θ(x + t_{n+1}·z, t_{n+1}), f_θ⁻(x̂, t_n) )        x̂ = Solver(x + t_{n+1}·z; t_{n+1} → t_n)
//
// The optimum is the solver's own result with one step per level. The paper uses 18 levels for small images and 40 for larger ones,
// Heun's solver, and a target with decay 0.95 or 0.
//
// The teacher is any denoiser: a network, a guided one, or the exact denoiser of a finite data set. With a guidance scale for each
// sample (Batch.Cond.Guidance) the student is guidance-distilled: it takes any of these scales in one evaluation (Meng et al. 2023).
type CD struct {
	CT
	Teacher models.Denoiser
	Solver  Solver
}

// Loss draws a pair of levels and a noise for each sample and returns the mean weighted distance.
func (c *CD) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	low, high := c.draw(k, b, d)
	return c.pair(c.step, d.Observe).loss(s, b, low, high, d.Noise(s, b.X), d.Dropout)
}

// LossAt is the loss for given levels low < high [B] and noise z, of the images' shape. The teacher runs without dropout.
func (c *CD) LossAt(s *torch.Scope, b Batch, low, high []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return c.pair(c.step, nil).loss(s, b, low, high, z, dropout)
}

// step takes one solver step along the teacher's trajectory to the lower level.
func (c *CD) step(s *torch.Scope, p points) *torch.Tensor {
	return c.Solver.Step(s, c.Teacher, p.xHigh, p.high, p.low, p.cond)
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (c *CD) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(c.Model, "cd", c.sigmaMax(), step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (c *CD) Validate() error {
	switch {
	case c.Teacher == nil:
		return errors.New("consistency distillation: no teacher: want a denoiser, such as one that was trained with the EDM objective")
	case c.Solver == nil:
		return errors.New("consistency distillation: no solver for the teacher's steps: use sampling.Heun{}")
	}
	if err := c.CT.Validate(); err != nil {
		return fmt.Errorf("consistency distillation: %w", err)
	}
	return nil
}
