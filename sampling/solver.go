package sampling

import (
	"context"
	"fmt"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
)

// Solver and the solvers are those of package models/solver.
type (
	Solver  = solver.Solver
	Euler   = solver.Euler
	Heun    = solver.Heun
	DPM2    = solver.DPM2
	DPMpp2S = solver.DPMpp2S
)

// ODE solves the probability-flow ODE from x [B, ...] at levels[0], through descending noise levels, and returns the solution at the last
// one. It stops between steps when ctx is done.
func ODE(ctx context.Context, s *torch.Scope, d models.Denoiser, solver Solver, x *torch.Tensor, levels []float64, c models.Cond) (*torch.Tensor, error) {
	return Stepwise{Solver: solver}.Sample(ctx, s, d, x, Options{Levels: levels, Cond: c})
}

func descending(levels []float64) error {
	if len(levels) == 0 {
		return fmt.Errorf("noise levels: want at least one")
	}
	for i, t := range levels {
		if !(t >= 0) || t > 1e6 {
			return fmt.Errorf("noise levels: want numbers from 0 to 1e6, got %g", t)
		}
		if i > 0 && t >= levels[i-1] {
			return fmt.Errorf("noise levels: want descending levels, got %g after %g", t, levels[i-1])
		}
	}
	return nil
}
