package sampling

import (
	"context"
	"fmt"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Solver takes one step along the probability-flow ODE dx/dt = (x - D(x; t))/t, from noise levels t [B] to next [B].
type Solver interface {
	Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor
}

// Euler is the first-order solver; one network evaluation a step. In this variance-exploding form it equals DDIM.
type Euler struct{}

// Step returns x + (next - t)·dx/dt.
func (Euler) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		dt := next.Sub(s, t).PerSample(s, x.NDim())
		return x.Add(s, slope(s, d, x, t, c).Mul(s, dt))
	})
}

// Heun is the second-order solver of Karras et al. 2022, algorithm 1; two network evaluations a step. Where next is 0
// the slope is undefined and the step is Euler's.
type Heun struct{}

// Step returns x + (next - t)·(d1 + d2)/2 with the slopes at both ends.
func (Heun) Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		dt := next.Sub(s, t).PerSample(s, x.NDim())
		d1 := slope(s, d, x, t, c)
		euler := x.Add(s, d1.Mul(s, dt))
		zero := next.EqScalar(s, 0)
		d2 := slope(s, d, euler, torch.Where(s, zero, t, next), c)
		heun := x.Add(s, d1.Add(s, d2).Mul(s, dt.MulScalar(s, 0.5)))
		return torch.Where(s, zero.PerSample(s, x.NDim()), euler, heun)
	})
}

// slope is dx/dt = (x - D(x; t))/t.
func slope(s *torch.Scope, d models.Denoiser, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return x.Sub(s, d.Denoise(s, x, t, c)).Div(s, t.PerSample(s, x.NDim()))
}

// ODE follows the probability-flow ODE from x [B, ...], which is at levels[0], through descending noise levels to the
// last one, and returns the point there. It stops between steps when ctx is done.
func ODE(ctx context.Context, s *torch.Scope, d models.Denoiser, solver Solver, x *torch.Tensor, levels []float64, c models.Cond) (*torch.Tensor, error) {
	if err := descending(levels); err != nil {
		return nil, err
	}
	var out *torch.Tensor
	err := s.NoGrad(func(s *torch.Scope) error {
		out = x
		for i, level := range levels[:len(levels)-1] {
			if err := ctx.Err(); err != nil {
				return err
			}
			next := s.Tidy(func(s *torch.Scope) *torch.Tensor {
				at := func(level float64) *torch.Tensor { return torch.Full(s, level, x.DType(), x.Dim(0)) }
				return solver.Step(s, d, out, at(level), at(levels[i+1]), c)
			})
			if out != x {
				out.Free()
			}
			out = next
		}
		if out == x {
			out = x.Share(s)
		}
		s.Keep(out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
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
			return fmt.Errorf("noise levels: want them largest first, got %g after %g", t, levels[i-1])
		}
	}
	return nil
}
