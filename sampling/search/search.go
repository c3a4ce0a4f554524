package search

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// Options say what is sampled and how much is searched. Steps, N, Shape and Metric have to be set.
type Options struct {
	Steps    int     // K, at least 2
	SigmaMax float64 // the first level, which is not searched; 0: 80
	SigmaMin float64 // ε, where the function is the identity; 0: 0.002

	N     int   // number of samples
	Shape []int // of one sample
	Batch int   // samples that are computed together; 0: 64
	// Seed is that of the first sample; the next ones have Seed+1, Seed+2, … They are the samples of sampling.Multistep with these seeds.
	Seed   uint64
	Device torch.Device
	Cond   func(s *torch.Scope, first, n int) models.Cond // conditions of samples first to first+n-1; nil: none

	// Metric returns what is to be small. It is called for each trial, and has to look at all samples.
	Metric Metric

	Trials int // for each level and pass, at least 3; 0: 12
	Passes int // over all levels after the greedy one; 0: 1 if there is more than one level to search; below 0: none

	// Progress, if not nil, is called after each trial. done and all count trials.
	Progress func(t Trial, done, all int)
}

// Metric measures samples, of which a smaller value is better. The value has to depend on the samples alone.
type Metric func(ctx context.Context, samples Samples) (float64, error)

// Samples yields all samples in order, batch by batch: x [B, ...], of which the first one is number first. x is valid until yield returns. An
// error of yield ends it and is returned.
type Samples func(yield func(s *torch.Scope, first int, x *torch.Tensor) error) error

// Trial is a measured list of levels.
type Trial struct {
	Levels []float64 // noise levels at which steps start, without the final 0
	Value  float64
}

// Result is what a search found.
type Result struct {
	Levels []float64 // K noise levels at which steps start, largest first
	Value  float64   // the metric with them
	Before Trial     // with sampling's default levels
	Trials []Trial   // all, in order; of the greedy search with fewer levels than K
}

func (o *Options) defaults() error {
	o.SigmaMax = cmp.Or(o.SigmaMax, 80)
	o.SigmaMin = cmp.Or(o.SigmaMin, 0.002)
	o.Batch = cmp.Or(o.Batch, 64)
	o.Trials = cmp.Or(o.Trials, 12)
	if o.Passes == 0 && o.Steps > 2 {
		o.Passes = 1
	}
	switch {
	case o.Steps < 2 || o.Steps > 16:
		return fmt.Errorf("search: want 2 to 16 steps, whose first level is the largest one, got %d", o.Steps)
	case o.N < 1 || len(o.Shape) == 0:
		return fmt.Errorf("search: want at least one sample and its shape, got %d and %v", o.N, o.Shape)
	case o.Batch < 1:
		return fmt.Errorf("search: want a batch of at least 1, got %d", o.Batch)
	case o.Trials < 3 || o.Trials > 1000:
		return fmt.Errorf("search: want 3 to 1000 trials for each level, got %d", o.Trials)
	case o.Passes > 100:
		return fmt.Errorf("search: want at most 100 passes, got %d", o.Passes)
	case o.Metric == nil:
		return errors.New("search: no metric is set")
	case !(o.SigmaMin > 0 && o.SigmaMin < o.SigmaMax && o.SigmaMax <= 1e6):
		return fmt.Errorf("search: want noise levels from above 0 to at most 1e6, got %g to %g", o.SigmaMin, o.SigmaMax)
	case o.Seed > math.MaxUint64-uint64(o.N-1):
		return fmt.Errorf("search: %d samples from seed %d on exceed the largest seed", o.N, o.Seed)
	}
	return nil
}

// Levels searches the noise levels of K-step sampling from f by [sampling.Multistep]. It stops between batches when ctx is done.
func Levels(ctx context.Context, f models.ConsistencyFunction, o Options) (Result, error) {
	if err := o.defaults(); err != nil {
		return Result{}, err
	}
	r := &run{Options: o, f: f, known: map[string]float64{}}
	defer r.free()
	usual := sampling.Levels(o.SigmaMax, o.Steps)[:o.Steps]
	r.all = (o.Steps-1)*(1+max(o.Passes, 0))*(o.Trials+1) + 2
	before, err := r.whole(ctx, usual)
	if err != nil {
		return Result{}, err
	}
	best := before
	// Greedily: the metric of k steps decides the k-th level.
	found := []float64{o.SigmaMax}
	for k := 1; k < o.Steps; k++ {
		t, err := r.level(ctx, found, nil, usual[k])
		if err != nil {
			return Result{}, err
		}
		found = t.Levels
	}
	last, err := r.whole(ctx, found)
	if err != nil {
		return Result{}, err
	}
	if last.Value < best.Value {
		best = last
	}
	for range max(o.Passes, 0) {
		was := best.Value
		for k := 1; k < o.Steps; k++ {
			t, err := r.level(ctx, best.Levels[:k], best.Levels[k+1:], best.Levels[k])
			if err != nil {
				return Result{}, err
			}
			if t.Value < best.Value {
				best = t
			}
		}
		if best.Value >= was {
			break
		}
	}
	return Result{Levels: slices.Clone(best.Levels), Value: best.Value, Before: before, Trials: r.trials}, nil
}

// run is a search under way.
type run struct {
	Options
	f      models.ConsistencyFunction
	trials []Trial
	known  map[string]float64 // values of trials
	all    int                // an upper bound of the number of trials

	// The function's results after the steps from levels of kept, on the CPU.
	kept  []float64
	scope *torch.Scope
	parts []*torch.Tensor
}

func (r *run) free() {
	if r.scope != nil {
		r.scope.Close()
	}
	r.scope, r.parts, r.kept = nil, nil, nil
}

// warped and level are the coordinates of a search: Karras's, in which his levels are at equal distances.
func warped(level float64) float64 { return math.Pow(level, 1.0/7) }
func level(warped float64) float64 { return math.Pow(warped, 7) }

// level searches the level between those before and those after it, and returns the best trial, with all of them. start is tried, too.
func (r *run) level(ctx context.Context, before, after []float64, start float64) (Trial, error) {
	if err := r.keep(ctx, before); err != nil {
		return Trial{}, err
	}
	lo, hi := warped(r.SigmaMin), warped(before[len(before)-1])
	if len(after) > 0 {
		lo = warped(after[0])
	}
	type point struct {
		at float64
		Trial
	}
	var tried []point
	best := point{Trial: Trial{Value: math.Inf(1)}}
	try := func(at float64) error {
		t, err := r.trial(ctx, slices.Concat(before, []float64{at}, after))
		if err != nil {
			return err
		}
		p := point{warped(at), t}
		if tried = append(tried, p); t.Value < best.Value || best.Levels == nil {
			best = p
		}
		return nil
	}
	// First across the range, and the usual level; then golden sections of the interval around the best.
	wide := max(r.Trials/3, 2)
	for i := range wide {
		if err := try(level(lo + (hi-lo)*float64(i+1)/float64(wide+1))); err != nil {
			return Trial{}, err
		}
	}
	if w := warped(start); w > lo && w < hi {
		if err := try(start); err != nil {
			return Trial{}, err
		}
	}
	const golden = 0.381966011250105 // (3-√5)/2
	for range r.Trials - wide {
		left, right := lo, hi
		for _, p := range tried {
			if p.at < best.at {
				left = max(left, p.at)
			}
			if p.at > best.at {
				right = min(right, p.at)
			}
		}
		at := best.at + golden*(right-best.at)
		if best.at-left > right-best.at {
			at = best.at - golden*(best.at-left)
		}
		if right-left < 1e-4*(hi-lo) {
			break
		}
		if err := try(level(at)); err != nil {
			return Trial{}, err
		}
	}
	return best.Trial, nil
}

// whole measures a list of levels from the first step on, as far as that is not kept.
func (r *run) whole(ctx context.Context, levels []float64) (Trial, error) {
	if err := r.keep(ctx, levels[:1]); err != nil {
		return Trial{}, err
	}
	return r.trial(ctx, levels)
}

// trial measures a list of levels that begins with the kept ones.
func (r *run) trial(ctx context.Context, levels []float64) (Trial, error) {
	t := Trial{Levels: slices.Clone(levels)}
	key := fmt.Sprint(levels)
	value, ok := r.known[key]
	if !ok {
		if err := (sampling.Multistep{SigmaMin: r.SigmaMin}).Validate(append(slices.Clone(levels), 0)); err != nil {
			return t, fmt.Errorf("search: %w", err)
		}
		var err error
		value, err = r.Metric(ctx, func(yield func(s *torch.Scope, first int, x *torch.Tensor) error) error {
			return r.sample(ctx, levels, yield)
		})
		if err != nil {
			return t, err
		}
		if math.IsNaN(value) {
			return t, fmt.Errorf("search: the metric is NaN with the levels %v", levels)
		}
		r.known[key], t.Value = value, value
		if r.trials = append(r.trials, t); r.Progress != nil {
			r.Progress(t, len(r.trials), max(r.all, len(r.trials)))
		}
	}
	t.Value = value
	return t, nil
}

// keep computes the function's results after the steps from these levels, from those that are kept if they are a part of them.
func (r *run) keep(ctx context.Context, levels []float64) error {
	if slices.Equal(r.kept, levels) {
		return nil
	}
	if len(r.kept) > len(levels) || !slices.Equal(r.kept, levels[:len(r.kept)]) {
		r.free()
	}
	scope := torch.NewScope(torch.CPU)
	var parts []*torch.Tensor
	err := r.sample(ctx, levels, func(_ *torch.Scope, _ int, x *torch.Tensor) error {
		return torch.Catch(func() { parts = append(parts, x.ToDevice(scope, torch.CPU).Clone(scope)) })
	})
	if err != nil {
		scope.Close()
		return err
	}
	r.free()
	r.scope, r.parts, r.kept = scope, parts, slices.Clone(levels)
	return nil
}

// sample computes samples with these levels, from the kept results on.
func (r *run) sample(ctx context.Context, levels []float64, yield func(s *torch.Scope, first int, x *torch.Tensor) error) error {
	for first := 0; first < r.N; first += r.Batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(r.Batch, r.N-first)
		err := torch.Run(r.Device, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				streams := noise.NewStreams(s, noise.Seeds(r.Seed+uint64(first), n)...)
				draw := func() *torch.Tensor { return streams.Randn(s, torch.Float32, r.Shape...) }
				var cond models.Cond
				if r.Cond != nil {
					cond = r.Cond(s, first, n)
				}
				var x *torch.Tensor
				done := len(r.kept)
				if done == 0 {
					x = draw().MulScalar(s, levels[0])
					x, done = r.f.Origin(s, x, torch.Full(s, levels[0], x.DType(), n), cond), 1
				} else {
					for range done {
						draw() // of the steps that are kept
					}
					x = r.parts[first/r.Batch].ToDevice(s, r.Device)
				}
				for _, t := range levels[done:] {
					x = x.Add(s, draw().MulScalar(s, math.Sqrt(t*t-r.SigmaMin*r.SigmaMin)))
					x = r.f.Origin(s, x, torch.Full(s, t, x.DType(), n), cond)
				}
				return yield(s, first, x)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
