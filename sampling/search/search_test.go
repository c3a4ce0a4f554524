package search_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/search"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// flawed is the exact function of Gaussian data with the standard deviation 0.5 times a factor, which is 1 at the level good and at the first
// level, 80, and smaller elsewhere: samples are best if the last step starts at good. It counts the samples it is asked for.
type flawed struct {
	good  float64
	asked *int
}

func (f flawed) factor(t float64) float64 {
	if t == 80 {
		return 1
	}
	d := math.Log(t / f.good)
	return math.Exp(-0.1 * d * d)
}

func (f flawed) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	*f.asked += x.Dim(0)
	return modelstest.Gaussian{}.Origin(s, x, t, c).MulScalar(s, f.factor(t.Narrow(s, 0, 0, 1).Item()))
}

// spread is how far the samples' mean square is from that of the data, 0.25.
func spread(_ context.Context, samples search.Samples) (float64, error) {
	sum, n := 0.0, 0
	err := samples(func(s *torch.Scope, _ int, x *torch.Tensor) error {
		sum += x.To(s, torch.Float64).Square(s).Sum(s).Item()
		n += x.NumEl()
		return nil
	})
	return math.Abs(sum/float64(n) - 0.25), err
}

func options(steps int) search.Options {
	return search.Options{Steps: steps, N: 96, Shape: []int{40}, Batch: 40, Seed: 5, Metric: spread}
}

// For two steps the best level is known: it is the one at which the function is right. Each trial costs one evaluation for each sample, after those of the first step, which are kept.
func TestTwoSteps(t *testing.T) {
	for _, good := range []float64{0.3, 4} {
		asked, calls := 0, 0
		o := options(2)
		o.Metric = func(ctx context.Context, samples search.Samples) (float64, error) {
			calls++
			return spread(ctx, samples)
		}
		got, err := search.Levels(t.Context(), flawed{good, &asked}, o)
		require.NoError(t, err)
		t.Logf("best %g, found %g after %d trials: %.4g in place of %.4g", good, got.Levels[1], calls, got.Value, got.Before.Value)
		require.Equal(t, 80.0, got.Levels[0])
		require.Equal(t, []float64{80, 0.8}, got.Before.Levels)
		require.Less(t, got.Value, got.Before.Value/5)
		require.InDelta(t, math.Log(good), math.Log(got.Levels[1]), 0.5)
		require.Len(t, got.Trials, calls)
		require.LessOrEqual(t, calls, 14)
		require.Equal(t, 96*(1+calls), asked)

		// What was measured are the samples of Multistep with these levels and seeds.
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			streams := noise.NewStreams(s, noise.Seeds(5, 96)...)
			x := streams.Randn(s, torch.Float32, 40).MulScalar(s, 80)
			x, err := sampling.Multistep{}.Sample(t.Context(), s, flawed{good, &asked}, x, sampling.Options{Levels: append(got.Levels, 0), Streams: streams})
			require.NoError(t, err)
			require.InDelta(t, got.Value, math.Abs(x.To(s, torch.Float64).Square(s).Sum(s).Item()/(96*40)-0.25), 1e-14)
			return nil
		}))
	}
}

// Of three and four steps the levels descend, none is worse than the default, and two searches are the same to the bit.
func TestMoreSteps(t *testing.T) {
	for _, steps := range []int{3, 4} {
		o := options(steps)
		o.Trials = 6
		var last search.Trial
		o.Progress = func(t search.Trial, done, all int) {
			last = t
			if done > all {
				panic("more trials than announced")
			}
		}
		asked := 0
		got, err := search.Levels(t.Context(), flawed{1, &asked}, o)
		require.NoError(t, err)
		require.Len(t, got.Levels, steps)
		require.NoError(t, sampling.Multistep{}.Validate(append(got.Levels, 0)))
		require.LessOrEqual(t, got.Value, got.Before.Value)
		require.Equal(t, got.Trials[len(got.Trials)-1], last)
		// The first step of all samples is computed once; without the cache, there would be steps evaluations for each trial.
		require.Less(t, asked, 96*steps*len(got.Trials))
		again, err := search.Levels(t.Context(), flawed{1, &asked}, o)
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
}

// A metric's and a context's errors end the search; options that cannot work are refused before anything is computed.
func TestErrors(t *testing.T) {
	asked := 0
	f := flawed{1, &asked}
	for name, change := range map[string]func(o *search.Options){
		"steps": func(o *search.Options) { o.Steps = 1 }, "more steps": func(o *search.Options) { o.Steps = 17 }, "samples": func(o *search.Options) { o.N = 0 },
		"shape": func(o *search.Options) { o.Shape = nil }, "metric": func(o *search.Options) { o.Metric = nil }, "trials": func(o *search.Options) { o.Trials = 2 },
		"levels": func(o *search.Options) { o.SigmaMin = 90 }, "seed": func(o *search.Options) { o.Seed = math.MaxUint64 }, "batch": func(o *search.Options) { o.Batch = -1 },
		"passes": func(o *search.Options) { o.Passes = 101 },
	} {
		o := options(2)
		change(&o)
		_, err := search.Levels(t.Context(), f, o)
		require.Error(t, err, name)
	}
	require.Zero(t, asked)
	o := options(2)
	wrong := errors.New("wrong")
	o.Metric = func(context.Context, search.Samples) (float64, error) { return 0, wrong }
	_, err := search.Levels(t.Context(), f, o)
	require.ErrorIs(t, err, wrong)
	o.Metric = func(context.Context, search.Samples) (float64, error) { return math.NaN(), nil }
	_, err = search.Levels(t.Context(), f, o)
	require.ErrorContains(t, err, "NaN")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = search.Levels(ctx, f, options(2))
	require.ErrorIs(t, err, context.Canceled)
}
