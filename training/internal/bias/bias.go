// Package bias has what the discretisation of a consistency method leaves to be desired, in closed form, for the cards of runs and for
// tests of the methods.
package bias

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Gaussian returns what perfect training of a method with these levels, ascending, leaves of the deviation of Gaussian data in
// samples of one step: 1 is all of it. It is exact for distillation with that solver, and with Euler's for consistency training
// too, whose best answer at t_{n+1} is the mean of f(x0 + t_n·z, t_n) given x0 + t_{n+1}·z, which on Gaussian data one of
// Euler's steps leads to:
//
//	a_1 = 1        a_{n+1} = a_n·(s² + t_n·t_{n+1})/(s² + t_{n+1}²)        bias = a_N·t_N/s
//
// Real data has more detail than Gaussian data, and loses more.
func Gaussian(solver Solver, levels []float64, sigmaData float64) (float64, error) {
	var bias float64
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		at := func(v float64) *torch.Tensor { return torch.FromSlice(s, []float64{v}) }
		top := levels[len(levels)-1]
		x := at(top / sigmaData)
		for n := len(levels) - 1; n > 0; n-- {
			x = solver.Step(s, gaussianDenoiser(sigmaData), x, at(levels[n]), at(levels[n-1]), models.Cond{})
		}
		bias = x.Item()
		return nil
	})
	return bias, err
}

// Solver is package training's.
type Solver interface {
	Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor
}

// gaussianDenoiser is exact for data around 0 of that deviation.
type gaussianDenoiser float64

func (g gaussianDenoiser) Denoise(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	v := float64(g * g)
	return x.Div(s, t.Square(s).DivScalar(s, v).AddScalar(s, 1))
}
