package sampling

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

var solvers = []Solver{Euler{}, Heun{}, DPM2{}, DPMpp2S{}, FlowEuler{}, FlowHeun{}, FlowMidpoint{}}

// Samples at levels of their own do not see each other; a step to level 0 is Euler's, except where the solver does not look
// there; and a step leaves its result and nothing else.
func TestStepsOfEverySolver(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float64{5, -3, 0.7, 0.1, -30, 60}, 3, 2)
		from, to := []float64{4, 0.9, 80}, []float64{1.5, 0, 0.002}
		at := func(v ...float64) *torch.Tensor { return torch.FromSlice(s, v) }
		for _, solver := range solvers {
			t0, t1 := at(from...), at(to...)
			before := torch.Live()
			got := solver.Step(s, toy{}, x, t0, t1, models.Cond{})
			require.Equal(t, before+1, torch.Live(), "%T", solver)
			for i := range from {
				alone := solver.Step(s, toy{}, x.Narrow(s, 0, i, 1), at(from[i]), at(to[i]), models.Cond{})
				torchtest.Close(t, "alone", got.Narrow(s, 0, i, 1), alone, 1e-14, 1e-14)
			}
			if (solver != Solver(FlowMidpoint{})) {
				want := toy{}.Denoise(s, x.Narrow(s, 0, 1, 1), at(0.9), models.Cond{})
				torchtest.Close(t, "to 0", got.Narrow(s, 0, 1, 1), want, 1e-14, 0)
			}
			require.NotZero(t, got.IsFinite(s).All(s).Item(), "%T", solver)
		}
		return nil
	}))
}

// From levels of thousands the usual coordinates lose digits in float32, which is what the flow ones are for.
func TestFlowFromLargeLevels(t *testing.T) {
	const start = 1e5
	g := modelstest.Gaussian{Mean: 0.3}
	miss := func(solver Solver) float64 {
		worst := 0.0
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 1000).MulScalar(s, start)
			draw := func(x *torch.Tensor) *torch.Tensor {
				out, err := ODE(t.Context(), s, g, solver, x, noise.Flow(11, start, 0.05, 0), models.Cond{})
				require.NoError(t, err)
				return out.To(s, torch.Float64)
			}
			worst = draw(x).Sub(s, draw(x.To(s, torch.Float64))).Abs(s).Max(s).Item()
			return nil
		}))
		return worst
	}
	t.Logf("errors of rounding: %.1g, %.1g", miss(Euler{}), miss(FlowEuler{}))
	require.Greater(t, miss(Euler{}), 1e-4)
	for _, solver := range []Solver{FlowEuler{}, FlowHeun{}, FlowMidpoint{}} {
		require.Less(t, miss(solver), 3e-6, "%T", solver)
	}
	require.False(t, math.IsNaN(miss(FlowHeun{})))
}
