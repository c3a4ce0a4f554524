package sampling

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// every calls f with each sampler that has a name, and with the variants that have none.
func every(t *testing.T, f func(t *testing.T, sampler Sampler)) {
	t.Helper()
	for _, name := range Names() {
		sampler, err := Named(name)
		require.NoError(t, err)
		t.Run(name, func(t *testing.T) { f(t, sampler) })
	}
	for _, sampler := range []Sampler{
		StochasticHeun{}, DDIM{Eta: 0.5}, Posterior{LargeVariance: true}, Stepwise{Solver: Heun{}, Eta: 0.3}, jumper{Jumps{}}, jumper{Jumps{Gamma: 0.7}}, jumper{Jumps{Gamma: 1}},
		originator{Multistep{SigmaMin: 1e-3}}, originator{Multistep{Clamp: true, SigmaMin: 1e-3}},
	} {
		t.Run(fmt.Sprintf("%T%v", sampler, sampler), func(t *testing.T) { f(t, sampler) })
	}
}

// jumper is the sampler of jumps as a Sampler: a denoiser's jump is one Euler step.
type jumper struct{ Jumps }

type eulerJump struct{ models.Denoiser }

func (d eulerJump) Jump(s *torch.Scope, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	return Euler{}.Step(s, d.Denoiser, x, t, next, c)
}

func (g jumper) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	return g.Jumps.Sample(ctx, s, eulerJump{d}, x, o)
}

// originator is multistep sampling as a Sampler: it takes the denoiser for a consistency function.
type originator struct{ Multistep }

type denoised struct{ models.Denoiser }

func (d denoised) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return d.Denoise(s, x, t, c)
}

func (m originator) Sample(ctx context.Context, s *torch.Scope, d models.Denoiser, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	return m.Multistep.Sample(ctx, s, denoised{d}, x, o)
}

// Evaluations is what a denoiser that counts is called, and it is never asked about level 0.
func TestEvaluations(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for _, levels := range [][]float64{{80}, {80, 1}, {80, 0}, {80, 1, 0}, descent(7), append(descent(7), 0), noise.Flow(5, 1000, 0, 3)} {
				got := 0
				d := denoiser{before: func(_, at *torch.Tensor) {
					got++
					require.Positive(t, at.Min(s).Item())
				}}
				out, err := sampler.Sample(t.Context(), s, d, torch.Full(s, levels[0], torch.Float64, 2, 3), Options{Levels: levels, Streams: noise.NewStreams(s, 1, 2)})
				require.NoError(t, err)
				require.Equal(t, sampler.Evaluations(levels), got, "levels %v", levels)
				require.NotZero(t, out.IsFinite(s).All(s).Item())
			}
			require.Zero(t, sampler.Evaluations(nil))
			return nil
		}))
	})
	for name, want := range map[string]int{"euler": 18, "heun": 35, "edm": 35, "dpmpp_2m": 18, "dpmpp_2s": 35, "ddpm": 18} {
		sampler, err := Named(name)
		require.NoError(t, err)
		require.Equal(t, want, sampler.Evaluations(append(descent(18), 0)), "%s with the 18 steps of the EDM paper", name)
	}
}

// A solver says how many evaluations its step takes.
func TestSolverEvaluations(t *testing.T) {
	for _, solver := range solvers {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			n := 0
			d := denoiser{before: func(_, _ *torch.Tensor) { n++ }}
			x := torch.Ones(s, torch.Float32, 1, 1)
			solver.Step(s, d, x, torch.FromSlice(s, []float32{2}), torch.FromSlice(s, []float32{1}), models.Cond{})
			require.Equal(t, n, solver.Evaluations(), "%T", solver)
			return nil
		}))
	}
}

// The same image alone, in a batch, and in the same call twice.
func TestSamplersDoNotMixImages(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			draw := func(seeds ...uint64) *torch.Tensor {
				streams := noise.NewStreams(s, seeds...)
				x := streams.Randn(s, torch.Float32, 1, 8, 8).MulScalar(s, 80)
				out, err := sampler.Sample(t.Context(), s, modelstest.Gaussian{Mean: 0.3}, x, Options{Levels: descent(6), Streams: streams})
				require.NoError(t, err)
				return out
			}
			alone := draw(42)
			require.NotZero(t, alone.Std(s, 0).Item())
			many := draw(noise.Seeds(40, 5)...)
			require.Equal(t, alone.Bytes(), many.Narrow(s, 0, 2, 1).Contiguous(s).Bytes())
			require.NotEqual(t, alone.Bytes(), many.Narrow(s, 0, 1, 1).Contiguous(s).Bytes(), "another seed is another image")
			require.Equal(t, alone.Bytes(), draw(42).Bytes())
			return nil
		}))
	})
}

// Without noise a stochastic sampler is the deterministic one, bit by bit, and draws nothing.
func TestNoNoiseIsDeterministic(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 2, 1, 8, 8).MulScalar(s, 80)
		g := modelstest.Gaussian{Mean: 0.3}
		for _, levels := range [][]float64{descent(9), append(descent(9), 0)} {
			draw := func(sampler Sampler, streams noise.Streams) *torch.Tensor {
				out, err := sampler.Sample(t.Context(), s, g, x, Options{Levels: levels, Streams: streams})
				require.NoError(t, err)
				return out
			}
			ode := func(solver Solver) *torch.Tensor {
				out, err := ODE(t.Context(), s, g, solver, x, levels, models.Cond{})
				require.NoError(t, err)
				return out
			}
			// By hand, from the solvers' own steps.
			for _, solver := range []Solver{Euler{}, Heun{}, DPM2{}, DPMpp2S{}} {
				want := x
				for i, level := range levels[:len(levels)-1] {
					if levels[i+1] == 0 {
						want = g.Denoise(s, want, torch.Full(s, level, torch.Float32, 2), models.Cond{})
						break
					}
					want = solver.Step(s, g, want, torch.Full(s, level, torch.Float32, 2), torch.Full(s, levels[i+1], torch.Float32, 2), models.Cond{})
				}
				require.Equal(t, want.Bytes(), ode(solver).Bytes(), "%T", solver)
				require.Equal(t, want.Bytes(), draw(Stepwise{Solver: solver}, nil).Bytes(), "%T", solver)
			}
			heun := ode(Heun{})
			streams := noise.NewStreams(s, 1, 2)
			require.Equal(t, heun.Bytes(), draw(StochasticHeun{}, nil).Bytes())
			require.Equal(t, heun.Bytes(), draw(StochasticHeun{Churn: 5, Min: 100}, streams).Bytes(), "no level above 100")
			require.Equal(t, heun.Bytes(), draw(StochasticHeun{Churn: 5, Max: 0.001}, streams).Bytes(), "no level to raise below 0.001")
			require.NotEqual(t, heun.Bytes(), draw(StochasticHeun{Churn: 5, Min: 1}, noise.NewStreams(s, 1, 2)).Bytes())
			torchtest.Close(t, "DDIM", draw(DDIM{}, nil), ode(Euler{}), 2e-5, 0) // float32 at 80
			fresh := noise.NewStreams(s, 1, 2)
			require.Equal(t, fresh.Randn(s, torch.Float32, 3).Bytes(), streams.Randn(s, torch.Float32, 3).Bytes(), "nothing was drawn")

			// The other end of η: what is one law is one image.
			x := x.To(s, torch.Float64)
			all := make([]*torch.Tensor, 3)
			for i, sampler := range []Sampler{Posterior{}, DDIM{Eta: 1}, Stepwise{Eta: 1}} {
				var err error
				all[i], err = sampler.Sample(t.Context(), s, g, x, Options{Levels: levels, Streams: noise.NewStreams(s, 1, 2)})
				require.NoError(t, err)
			}
			torchtest.Close(t, "DDIM, η = 1", all[1], all[0], 1e-12, 0)
			torchtest.Close(t, "Euler ancestral", all[2], all[0], 1e-12, 0)
		}
		return nil
	}))
}

// The γ-sampler is multistep sampling for γ = 1, and the ODE for γ = 0.
func TestJumpsEnds(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const eps = 0.5
		g := exact{modelstest.Gaussian{Mean: 0.1, Std: 0.4, SigmaMin: eps}}
		levels := []float64{80, 3, 0.8, eps}
		streams := noise.NewStreams(s, 1, 2)
		x := streams.Randn(s, torch.Float32, 4).MulScalar(s, 80)
		want, err := Multistep{SigmaMin: eps}.Sample(t.Context(), s, originOf{g, eps}, x, Options{Levels: levels, Streams: streams})
		require.NoError(t, err)
		streams = noise.NewStreams(s, 1, 2)
		require.Equal(t, x.Bytes(), streams.Randn(s, torch.Float32, 4).MulScalar(s, 80).Bytes())
		got, err := Jumps{Gamma: 1, SigmaMin: eps}.Sample(t.Context(), s, g, x, Options{Levels: levels, Streams: streams})
		require.NoError(t, err)
		require.Equal(t, want.Bytes(), got.Bytes())

		got, err = Jumps{}.Sample(t.Context(), s, g, torch.FromSlice(s, []float64{70}, 1, 1), Options{Levels: []float64{80, 3, 0.8, 0}})
		require.NoError(t, err)
		require.InDelta(t, g.Move(70, 80, 0), got.Item(), 1e-12)

		// No jump goes below ε, except to a level that is.
		var asked []float64
		spy := jumps{g, func(_, next *torch.Tensor) { asked = append(asked, next.Item()) }}
		x = torch.Ones(s, torch.Float64, 1, 1)
		_, err = Jumps{Gamma: 0.8, SigmaMin: 0.9}.Sample(t.Context(), s, spy, x, Options{Levels: []float64{80, 3, 1, 0.5, 0}, Streams: noise.NewStreams(s, 1)})
		require.NoError(t, err)
		require.InDeltaSlice(t, []float64{1.8, 0.9, 0.5, 0}, asked, 1e-12)
		return nil
	}))
}

// originOf is the consistency function of a trajectory model.
type originOf struct {
	models.Jumper
	eps float64
}

func (f originOf) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return f.Jump(s, x, t, torch.Full(s, f.eps, t.DType(), t.Dim(0)), c)
}

type jumps struct {
	exact
	before func(t, next *torch.Tensor)
}

func (j jumps) Jump(s *torch.Scope, x, t, next *torch.Tensor, c models.Cond) *torch.Tensor {
	j.before(t, next)
	return j.exact.Jump(s, x, t, next, c)
}

// OnStep is told of every step; the last point is the result, and the predictions are the denoiser's at the points before.
func TestOnStep(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := modelstest.Gaussian{Mean: 0.3}
			levels := append(descent(5), 0)
			var steps []Step
			var xs, origins []*torch.Tensor
			run := Options{Levels: levels, Streams: noise.NewStreams(s, 1, 2), OnStep: func(inner *torch.Scope, p Step) error {
				p.X.MulScalar(inner, 2) // the scope is there to be used
				xs, origins = append(xs, p.X.Clone(s)), append(origins, p.Origin.Clone(s))
				steps = append(steps, p)
				return nil
			}}
			out, err := sampler.Sample(t.Context(), s, g, torch.Full(s, 80, torch.Float64, 2, 3), run)
			require.NoError(t, err)
			require.Len(t, steps, 5)
			for i, p := range steps {
				require.Equal(t, []any{i, 5, levels[i+1]}, []any{p.Index, p.Count, p.Level})
				require.True(t, p.X.Freed() && p.Origin.Freed())
				_, churned := sampler.(StochasticHeun)
				if _, jumps := sampler.(jumper); i > 0 && !churned && !jumps {
					want := g.Denoise(s, xs[i-1], torch.Full(s, levels[i], torch.Float64, 2), models.Cond{})
					torchtest.Close(t, "prediction", origins[i], want, 1e-12, 0)
				}
			}
			require.Equal(t, out.Bytes(), xs[4].Bytes())
			require.Equal(t, out.Bytes(), origins[4].Bytes(), "level 0 is at a prediction")

			// Its error ends the run.
			before, calls, stop := torch.Live(), 0, errors.New("enough")
			run.OnStep = func(*torch.Scope, Step) error {
				calls++
				return stop
			}
			out, err = sampler.Sample(t.Context(), s, g, torch.Full(s, 80, torch.Float64, 2, 3), run)
			require.Equal(t, stop, err)
			require.Nil(t, out)
			require.Equal(t, 1, calls)
			require.Equal(t, before+1, torch.Live(), "the start")
			return nil
		}))
	})
}

// A run holds no more in a late step than in an early one, leaves its start alone, keeps its type, and records no gradients.
func TestSamplersFreeIntermediates(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for _, dtype := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
				var live []int64
				x := torch.Full(s, 64, dtype, 2, 3)
				x.SetRequiresGrad(true)
				run := Options{Levels: descent(20), Streams: noise.NewStreams(s, 1, 2), OnStep: func(*torch.Scope, Step) error {
					live = append(live, torch.Live())
					return nil
				}}
				before := torch.Live()
				out, err := sampler.Sample(t.Context(), s, modelstest.Gaussian{}, x, run)
				require.NoError(t, err)
				require.Equal(t, before+1, torch.Live())
				require.Equal(t, live[3], live[12])
				require.False(t, out.RequiresGrad())
				require.Equal(t, dtype, out.DType())
				require.Equal(t, x.Shape(), out.Shape())
				require.Equal(t, 64.0, x.Max(s).Item())
			}
			return nil
		}))
	})
}

// A cancelled run finishes its step and begins no other; a denoiser that fails ends it. Neither leaves anything behind.
func TestSamplersStop(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			run := Options{Levels: descent(18), Streams: noise.NewStreams(s, 1)}
			x := torch.Ones(s, torch.Float32, 1, 1)
			before := torch.Live()
			ctx, cancel := context.WithCancel(t.Context())
			evaluations, steps := 0, 0
			d := denoiser{before: func(_, _ *torch.Tensor) {
				if evaluations++; evaluations == 5 {
					cancel()
				}
			}}
			run.OnStep = func(*torch.Scope, Step) error { steps++; return nil }
			out, err := sampler.Sample(ctx, s, d, x, run)
			require.ErrorIs(t, err, context.Canceled)
			require.Nil(t, out)
			require.Equal(t, sampler.Evaluations(run.Levels[:steps+1]), evaluations)
			require.LessOrEqual(t, evaluations, 6)

			_, err = sampler.Sample(ctx, s, d, x, run)
			require.ErrorIs(t, err, context.Canceled, "cancelled before the first step")

			d.before = func(x, _ *torch.Tensor) { x.Reshape(s, 7) }
			_, err = sampler.Sample(t.Context(), s, d, x, run)
			var e *torch.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, before, torch.Live())
			return nil
		}))
	})
}

func TestSamplersRefuse(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x, streams := torch.Ones(s, torch.Float32, 1, 1), noise.NewStreams(s, 1)
			before := torch.Live()
			for _, c := range []struct {
				levels []float64
				want   string
			}{
				{nil, "noise levels: want at least one"},
				{[]float64{80, 1, 1}, "noise levels: want descending levels, got 1 after 1"},
				{[]float64{0.002, 80}, "noise levels: want descending levels, got 80 after 0.002"},
				{[]float64{80, 0, 0}, "noise levels: want descending levels, got 0 after 0"},
				{[]float64{1, -0.1}, "noise levels: want numbers from 0 to 1e6, got -0.1"},
				{[]float64{80, math.NaN(), 0}, "noise levels: want numbers from 0 to 1e6, got NaN"},
				{[]float64{math.Inf(1), 1}, "noise levels: want numbers from 0 to 1e6, got +Inf"},
			} {
				out, err := sampler.Sample(t.Context(), s, modelstest.Gaussian{}, x, Options{Levels: c.levels, Streams: streams})
				require.EqualError(t, err, c.want)
				require.Nil(t, out)
			}
			_, err := sampler.Sample(t.Context(), s, modelstest.Gaussian{}, torch.Scalar(s, 1.0), Options{Levels: []float64{1, 0}, Streams: streams})
			require.Error(t, err, "an image of no dimensions")
			require.Equal(t, before+1, torch.Live())
			return nil
		}))
	})
}

// Settings that cannot work, and noise without streams, are errors before anything is computed.
func TestSettingsRefused(t *testing.T) {
	const streams = "sampling: the sampler adds noise: want a random stream for each of 3 images, got "
	for _, c := range []struct {
		sampler Sampler
		want    string
	}{
		{Stepwise{Eta: -0.1}, "eta: want 0 to 1, got -0.1"},
		{Stepwise{Eta: 1.1}, "eta: want 0 to 1, got 1.1"},
		{DDIM{Eta: math.NaN()}, "eta: want 0 to 1, got NaN"},
		{DPMpp{Order: 1}, "order: want 2 or 3, got 1"},
		{DPMpp{Order: 4}, "order: want 2 or 3, got 4"},
		{StochasticHeun{Churn: -1}, "churn: want a finite number of at least 0, got -1"},
		{StochasticHeun{Churn: 1, Noise: math.NaN()}, "churn: noise factor: want a finite number of at least 0, got NaN"},
		{StochasticHeun{Min: math.Inf(1)}, "churn: minimum noise level: want a finite number of at least 0, got +Inf"},
		{StochasticHeun{Min: 2, Max: 1}, "churn: want a maximum noise level of at least the minimum 2, or 0 for no limit, got 1"},
		{jumper{Jumps{Gamma: 2}}, "gamma: want 0 to 1, got 2"},
		{jumper{Jumps{SigmaMin: -1}}, "minimum noise level: want more than 0, got -1"},
		{Stepwise{Eta: 0.1}, streams + "1"},
		{DDIM{Eta: 0.1}, streams + "1"},
		{Posterior{}, streams + "1"},
		{StochasticHeun{Churn: 1}, streams + "1"},
		{jumper{Jumps{Gamma: 0.1}}, streams + "1"},
	} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			d := denoiser{before: func(_, _ *torch.Tensor) { t.Error("the network was asked") }}
			x := torch.Ones(s, torch.Float32, 3, 1)
			_, err := c.sampler.Sample(t.Context(), s, d, x, Options{Levels: []float64{80, 1}, Streams: noise.NewStreams(s, 1)})
			require.EqualError(t, err, c.want)
			return nil
		}))
	}
}

func TestNamed(t *testing.T) {
	for _, name := range strings.Fields("euler heun edm euler_a ddpm ddim dpmpp_2m dpmpp_2s dpmpp_3m dpm2 flow_euler flow_heun") {
		sampler, err := Named(name)
		require.NoError(t, err)
		require.NotNil(t, sampler)
	}
	_, err := Named("hein")
	for _, name := range append(Names(), `"hein"`, "did you mean heun?") {
		require.ErrorContains(t, err, name)
	}
}

// The class reaches the denoiser in every evaluation.
func TestSamplersPassTheCondition(t *testing.T) {
	every(t, func(t *testing.T, sampler Sampler) {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			class := torch.FromSlice(s, []int64{3, 1})
			d := &told{}
			levels := append(descent(4), 0)
			_, err := sampler.Sample(t.Context(), s, d, torch.Ones(s, torch.Float32, 2, 1), Options{Levels: levels, Streams: noise.NewStreams(s, 1, 2), Cond: models.Cond{Class: class}})
			require.NoError(t, err)
			require.Len(t, d.seen, sampler.Evaluations(levels))
			for _, c := range d.seen {
				require.Same(t, class, c.Class)
			}
			return nil
		}))
	})
}

type told struct {
	modelstest.Gaussian
	seen []models.Cond
}

func (d *told) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	d.seen = append(d.seen, c)
	return d.Gaussian.Denoise(s, x, t, c)
}
