// Package bias computes the discretisation error of consistency methods on Gaussian data in closed form, for the cards of runs and for
// tests of the methods.
package bias

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Gaussian returns the standard deviation of one-step samples relative to that of the data, for a perfectly trained method with these
// levels, in ascending order, on Gaussian data: 1 is exact. It holds for distillation with that solver, and with Euler's for consistency
// training too, whose optimum at t_{n+1} is the mean of f(x0 + t_n·z, t_n) given x0 + t_{n+1}·z. On Gaussian data that is one Euler step:
//
//	a_1 = 1        a_{n+1} = a_n·(s² + t_n·t_{n+1})/(s² + t_{n+1}²)        bias = a_N·t_N/s
//
// For real data, which has more detail than Gaussian data, the error is larger.
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

// Solver is training.Solver.
type Solver interface {
	Step(s *torch.Scope, d models.Denoiser, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor
}

// gaussianDenoiser is the exact denoiser of Gaussian data with mean 0 and that standard deviation.
type gaussianDenoiser float64

func (g gaussianDenoiser) Denoise(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	v := float64(g * g)
	return x.Div(s, t.Square(s).DivScalar(s, v).AddScalar(s, 1))
}
