package solver

import (
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Path follows the trajectory of x [B, ...] down the levels, which are the same for all samples, with DPM-Solver++(2M) (Lu et al. 2022b,
// algorithm 2): second order with one evaluation of the denoiser per step, since each step uses the one before.
//
//	x ← (next/t)·x + (1 - next/t)·D'        D' = D(x; t) + (D(x; t) - D_before)·h/(2·h_before)        h = ln(t/next)
//
// The first step and a step to level 0 use D itself. Path returns the points at all levels, x first.
func Path(s *torch.Scope, d models.Denoiser, x *torch.Tensor, levels []float64, c models.Cond) []*torch.Tensor {
	path := []*torch.Tensor{x}
	var before *torch.Tensor
	for i := range len(levels) - 1 {
		t, next := levels[i], levels[i+1]
		origin := d.Denoise(s, x, torch.Full(s, t, x.DType(), x.Dim(0)), c)
		ahead := origin
		if before != nil && next > 0 {
			ahead = origin.Add(s, origin.Sub(s, before).MulScalar(s, math.Log(t/next)/(2*math.Log(levels[i-1]/t))))
		}
		x, before = ahead.Add(s, x.Sub(s, ahead).MulScalar(s, next/t)), origin
		path = append(path, x)
	}
	return path
}
