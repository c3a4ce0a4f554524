package sampling

import (
	"context"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Trajectory jumps along the probability-flow ODE, from x [B, ...] at noise levels t [B] to the same trajectory's points at
// the levels next [B]: G(x, t, s) of consistency trajectory models.
type Trajectory interface {
	Jump(s *torch.Scope, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor
}

// CTM is the γ-sampler of Kim et al. 2024 (algorithm 3): for each level t after the first it jumps to √(1 - γ²)·t and then
// adds noise up to t. γ = 0 follows the ODE; γ = 1 is multistep sampling from a consistency function.
//
// It never jumps below SigmaMin, the end of the trajectories, unless a level itself is lower; the noise added is what is
// missing to t. With γ = 1 that is t² - ε², as in Multistep.
type CTM struct {
	Gamma    float64 // γ, from 0 to 1
	SigmaMin float64 // ε; 0: 0.002
}

// Sample returns where x [B, ...], at run.Levels[0], comes to at the last level. To sample in one step, give two levels. Each
// gets the point that a jump reached in place of a prediction of x_0, which would cost another evaluation.
func (g CTM) Sample(ctx context.Context, s *torch.Scope, f Trajectory, x *torch.Tensor, run Run) (*torch.Tensor, error) {
	if err := fraction("gamma", g.Gamma); err != nil {
		return nil, err
	}
	eps := g.SigmaMin
	if eps == 0 {
		eps = 0.002
	}
	if !(eps > 0) {
		return nil, fmt.Errorf("smallest noise level: want more than 0, got %g", eps)
	}
	return walk{Run: run, noisy: g.Gamma > 0, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		u := run.Levels[i+1]
		down := min(u, max(eps, math.Sqrt(1-g.Gamma*g.Gamma)*u))
		at := func(level float64) *torch.Tensor { return torch.Full(s, level, x.DType(), x.Dim(0)) }
		origin = f.Jump(s, x, at(run.Levels[i]), at(down), run.Cond)
		return run.addNoise(s, origin, math.Sqrt(u*u-down*down)), origin
	}}.from(ctx, s, x)
}

// Evaluations is 1 for each step.
func (CTM) Evaluations(levels []float64) int { return max(len(levels)-1, 0) }
