package sampling

import (
	"context"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Jumps samples from a jump model, such as a consistency trajectory model, with the γ-sampler of Kim et al. 2024 (algorithm 3): for each
// level t after the first it jumps to √(1 - γ²)·t and then adds noise up to t. γ = 0 follows the ODE; γ = 1 is multistep sampling from a
// consistency function.
//
// It does not jump below SigmaMin, the end of the trajectories, unless a level itself is lower; the added noise has the variance that is
// missing to t². With γ = 1 that is t² - ε², as in Multistep.
type Jumps struct {
	Gamma    float64 // γ, from 0 to 1
	SigmaMin float64 // ε; 0: 0.002
}

// Sample takes x [B, ...] at noise level o.Levels[0] to the last level. Two levels sample in one step. OnStep gets the result of a jump as
// Origin, since a prediction of x_0 would take another evaluation.
func (g Jumps) Sample(ctx context.Context, s *torch.Scope, f models.Jumper, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	if err := fraction("gamma", g.Gamma); err != nil {
		return nil, err
	}
	eps := g.SigmaMin
	if eps == 0 {
		eps = 0.002
	}
	if !(eps > 0) {
		return nil, fmt.Errorf("minimum noise level: want more than 0, got %g", eps)
	}
	return walk{Options: o, noisy: g.Gamma > 0, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		u := o.Levels[i+1]
		down := min(u, max(eps, math.Sqrt(1-g.Gamma*g.Gamma)*u))
		at := func(level float64) *torch.Tensor { return torch.Full(s, level, x.DType(), x.Dim(0)) }
		origin = f.Jump(s, x, at(o.Levels[i]), at(down), o.Cond)
		return o.addNoise(s, origin, math.Sqrt(u*u-down*down)), origin
	}}.from(ctx, s, x)
}

// Evaluations returns 1 per step.
func (Jumps) Evaluations(levels []float64) int { return max(len(levels)-1, 0) }
