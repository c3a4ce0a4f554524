package sampling

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// descent is Karras's grid of n levels, largest first.
func descent(n int) []float64 {
	levels := noise.Karras(n, 0.002, 80, 7)
	slices.Reverse(levels)
	return levels
}

// end is where an ODE run of that solver ends for data N(m, 0.5²), from x at the first level.
func end(t *testing.T, d models.Denoiser, solver Solver, x float64, levels []float64) float64 {
	t.Helper()
	var got float64
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		out, err := ODE(t.Context(), s, d, solver, torch.FromSlice(s, []float64{x}, 1, 1), levels, models.Cond{})
		if err != nil {
			return err
		}
		got = out.Item()
		return nil
	}))
	return got
}

// The error at the end, against the exact trajectory, falls by 2^order when the steps are halved.
func TestSolverOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		solver Solver
		order  float64
	}{{"Euler", Euler{}, 1}, {"Heun", Heun{}, 2}} {
		t.Run(c.name, func(t *testing.T) {
			g := modelstest.Gaussian{Mean: 0.2}
			const x = 70.0
			exact := g.Move(x, 80, 0.002)
			previous := 0.0
			for _, steps := range []int{64, 128, 256} {
				got := math.Abs(end(t, g, c.solver, x, descent(steps+1)) - exact)
				if previous > 0 {
					require.InDelta(t, c.order, math.Log2(previous/got), 0.1, "%d steps", steps)
				}
				previous = got
			}
			require.Less(t, previous, 0.01)
		})
	}
}

// The standard deviation of what N levels make of N(0, s² + 80²), over the data's: the products of the steps' factors,
//
//	Euler: (s² + t·u)/(s² + t²)      Heun: 1 + (u - t)·(g(t) + g(u)·(1 + (u - t)·g(t)))/2      g(t) = t/(s² + t²)
//
// from t to u, worked out in Python. Consistency training ends where Euler's solver does, so the first column is also
// what its levels cost.
func TestDiscretisationTable(t *testing.T) {
	for _, c := range []struct {
		levels      int
		euler, heun float64
	}{
		{3, 0.1953193, 4.0946618},
		{9, 0.6990106, 1.2781653},
		{11, 0.7527826, 1.1746283},
		{18, 0.8460929, 1.0552868},
		{40, 0.9297346, 1.0097896},
		{81, 0.9651090, 1.0022679},
		{151, 0.9812409, 1.0006428},
		{201, 0.9858993, 1.0003638},
		{641, 0.9955775, 1.0000425},
		{1281, 0.9977903, 1.0000166},
	} {
		g, start := modelstest.Gaussian{}, math.Hypot(80, 0.5) // one standard deviation
		require.InDelta(t, c.euler, end(t, g, Euler{}, start, descent(c.levels))/0.5, 2e-7, "Euler, %d levels", c.levels)
		require.InDelta(t, c.heun, end(t, g, Heun{}, start, descent(c.levels))/0.5, 2e-7, "Heun, %d levels", c.levels)
	}
}

// One step of each solver by hand, for samples of one batch at levels of their own.
func TestStep(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := modelstest.Gaussian{Mean: -0.1, Std: 0.3}
		x := torch.FromSlice(s, []float64{5, -3, 0.7, 0.1}, 2, 1, 2, 1)
		from, to := []float64{4, 0.9}, []float64{1.5, 0}
		slope := func(x, t float64) float64 { return (x - g.Mean) * t / (g.Std*g.Std + t*t) } // (x - D)/t
		var euler, heun []float64
		for i, x := range torch.ToSlice[float64](x) {
			t, u := from[i/2], to[i/2]
			e := x + (u-t)*slope(x, t)
			euler = append(euler, e)
			if u > 0 {
				e = x + (u-t)*(slope(x, t)+slope(e, u))/2
			}
			heun = append(heun, e) // to level 0: Euler's step
		}
		before := torch.Live()
		t0, t1 := torch.FromSlice(s, from), torch.FromSlice(s, to)
		got := Euler{}.Step(s, g, x, t0, t1, models.Cond{})
		require.Equal(t, x.Shape(), got.Shape())
		require.InDeltaSlice(t, euler, torch.ToSlice[float64](got), 1e-14)
		got = Heun{}.Step(s, g, x, t0, t1, models.Cond{})
		require.Equal(t, x.Shape(), got.Shape())
		require.InDeltaSlice(t, heun, torch.ToSlice[float64](got), 1e-14)
		require.Equal(t, before+4, torch.Live(), "a step leaves its result and nothing else")
		return nil
	}))
}

// At level 0 the slope is 0/0. The last step to 0 must not see it: Heun's is Euler's, and no result is NaN.
func TestODEDownToZero(t *testing.T) {
	g := modelstest.Gaussian{Mean: 0.2}
	levels := append(descent(40), 0)
	heun := end(t, g, Heun{}, 60, levels)
	last := end(t, g, Heun{}, 60, levels[:40])
	// The step from ε to 0 by hand.
	require.InDelta(t, last-0.002*(last-g.Mean)*0.002/(0.25+0.002*0.002), heun, 1e-15)
	require.InDelta(t, g.Move(60, 80, 0), heun, 0.01)
	require.False(t, math.IsNaN(end(t, g, Euler{}, 60, levels)))
	asked := math.Inf(1)
	end(t, denoiser{g, func(_, at *torch.Tensor) { asked = min(asked, torch.ToSlice[float64](at)[0]) }}, Heun{}, 60, levels)
	require.Equal(t, 0.002, asked, "the network is never asked about level 0")
}

func TestODERefusesLevels(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 1, 1)
		for _, c := range []struct {
			levels []float64
			want   string
		}{
			{nil, "noise levels: want at least one"},
			{[]float64{80, 1, 1}, "noise levels: want descending levels, got 1 after 1"},
			{[]float64{0.002, 80}, "noise levels: want descending levels, got 80 after 0.002"},
			{[]float64{1, -0.1}, "noise levels: want numbers from 0 to 1e6, got -0.1"},
			{[]float64{math.NaN()}, "noise levels: want numbers from 0 to 1e6, got NaN"},
			{[]float64{math.Inf(1), 1}, "noise levels: want numbers from 0 to 1e6, got +Inf"},
		} {
			before := torch.Live()
			out, err := ODE(t.Context(), s, modelstest.Gaussian{}, Heun{}, x, c.levels, models.Cond{})
			require.EqualError(t, err, c.want)
			require.Nil(t, out)
			require.Equal(t, before, torch.Live())
		}
		return nil
	}))
}

// denoiser calls a function before each evaluation of the oracle.
type denoiser struct {
	modelstest.Gaussian
	before func(x, t *torch.Tensor)
}

func (d denoiser) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	d.before(x, t)
	return d.Gaussian.Denoise(s, x, t, c)
}

// A run holds no more at its end than at its start, records no gradients, and leaves its start alone.
func TestODEFreesIntermediates(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Full(s, 80, torch.Float64, 2, 3)
		x.SetRequiresGrad(true)
		var live []int64
		var levels []float64
		d := denoiser{before: func(_, at *torch.Tensor) {
			live = append(live, torch.Live())
			levels = append(levels, torch.ToSlice[float64](at)...)
		}}
		before := torch.Live()
		out, err := ODE(t.Context(), s, d, Euler{}, x, descent(20), models.Cond{})
		require.NoError(t, err)
		require.Equal(t, before+1, torch.Live())
		require.Len(t, live, 19)
		require.Equal(t, live[1], live[18], "tensors alive in the first and in the last steps")
		require.False(t, out.RequiresGrad())
		require.Equal(t, 80.0, x.Max(s).Item())
		for i, level := range descent(20)[:19] {
			require.Equal(t, []float64{level, level}, levels[2*i:2*i+2], "every sample at the step's level")
		}

		// One level is no step: the point is where it was, in a handle of its own.
		same, err := ODE(t.Context(), s, d, Euler{}, out, []float64{3}, models.Cond{})
		require.NoError(t, err)
		same.Free()
		require.False(t, out.Freed())
		return nil
	}))
}

// A run that is cancelled stops before the next step; a denoiser that fails ends it with the operator's error.
func TestODEStops(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 1, 1)
		before := torch.Live()
		ctx, cancel := context.WithCancel(t.Context())
		evaluations := 0
		d := denoiser{before: func(_, _ *torch.Tensor) {
			if evaluations++; evaluations == 5 {
				cancel()
			}
		}}
		out, err := ODE(ctx, s, d, Heun{}, x, descent(18), models.Cond{})
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, out)
		require.Equal(t, 6, evaluations, "the third step was finished, the fourth not begun")

		d.before = func(x, _ *torch.Tensor) { x.Reshape(s, 7) }
		out, err = ODE(t.Context(), s, d, Heun{}, x, descent(18), models.Cond{})
		var e *torch.Error
		require.ErrorAs(t, err, &e)
		require.Nil(t, out)
		require.Equal(t, before, torch.Live())
		return nil
	}))
}

// The type of the image is the type of the result.
func TestODEKeepsTheType(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, solver := range []Solver{Euler{}, Heun{}} {
			run := func(d torch.DType) *torch.Tensor {
				out, err := ODE(t.Context(), s, modelstest.Gaussian{}, solver, torch.Full(s, 64, d, 1, 2), descent(18), models.Cond{})
				require.NoError(t, err)
				require.Equal(t, d, out.DType())
				return out.To(s, torch.Float64)
			}
			want := run(torch.Float64)
			torchtest.Close(t, "float32", run(torch.Float32), want, 0, 2e-6)
			torchtest.Close(t, "bfloat16", run(torch.BFloat16), want, 0, 0.1)
		}
		return nil
	}))
}
