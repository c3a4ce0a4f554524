package solver_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
)

// One step from noise level 2 to 1. The data is a single point at 0. Its trajectories are straight lines to the point, so that every solver
// is exact.
func Example() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		exact := &models.Empirical{Data: torch.Zeros(s, torch.Float32, 1, 1)}
		x := torch.FromSlice(s, []float32{3}, 1, 1)
		t, next := torch.FromSlice(s, []float32{2}), torch.FromSlice(s, []float32{1})
		for _, v := range []solver.Solver{solver.Euler{}, solver.Heun{}, solver.DPMpp2S{}} {
			fmt.Printf("%T %d %.3f\n", v, v.Evaluations(), v.Step(s, exact, x, t, next, models.Cond{}).Item())
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// solver.Euler 1 1.500
	// solver.Heun 2 1.500
	// solver.DPMpp2S 2 1.500
}
