package job

import (
	"context"
	"fmt"
	"image"
	"slices"
	"strconv"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/search"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Searched is the result of a search for the noise levels of few-step sampling. Values and intervals are of other images than the search's.
type Searched struct {
	Times    []float64            `json:"times"`
	Default  []float64            `json:"default_times"`
	By       string               `json:"by"`      // fd, kid or swd
	Value    float64              `json:"value"`   // with Times
	Before   float64              `json:"default"` // with the default times
	Interval *evaluation.Interval `json:"frechet_interval,omitempty"`
	Was      *evaluation.Interval `json:"default_frechet_interval,omitempty"`
	Sampler  string               `json:"sampler,omitempty"` // multistep, for models that have another one by default
	Seed     uint64               `json:"seed"`              // of the first image of these; those of the search come before it
	Trials   []SearchTrial        `json:"trials"`
}

// SearchTrial is one list of times of a search.
type SearchTrial struct {
	Times []float64 `json:"times"`
	Value float64   `json:"value"`
}

// validateSearch checks the options of a search.
func (o Eval) validateSearch() error {
	switch {
	case o.Search == 0 && o.SearchBy != "":
		return usage("--search-by needs --search-times")
	case o.Times != nil && o.Images != "":
		return usage("--times: with --images nothing is generated: leave it out")
	case o.Search == 0:
		return nil
	case o.Search < 2 || o.Search > 16:
		return usage("--search-times: want 2 to 16 steps, since the first noise level is always the largest, got %d", o.Search)
	case o.Images != "":
		return usage("--search-times: with --images nothing is generated: pass --model")
	case o.Steps != 0 || o.Times != nil:
		return usage("--search-times sets the number of steps and finds their noise levels: leave --steps and --times out")
	case o.Nearest != "":
		return usage("--nearest: --search-times writes no images: evaluate the times that it finds with --times and --nearest")
	case o.Sampler != "" && o.Sampler != "multistep":
		return usage("--search-times: times are searched for the sampler multistep of consistency models, not for %s", o.Sampler)
	case o.SearchBy != "" && !slices.Contains(evaluation.MeasureNames(), o.SearchBy):
		return usage("--search-by: want one of %v, got %s", evaluation.MeasureNames(), strconv.Quote(o.SearchBy))
	}
	return nil
}

// searchable is what a search needs of a model.
type searchable struct {
	file   *checkpoint.File
	model  *generate.Model
	sample Sample
}

// search finds the times of a model, and measures them and the default ones with other images than those of the search.
func (o Eval) search(ctx context.Context, r *evaluation.Reference, with searchable, n int, dev torch.Device, out *Evaluated) error {
	d := with.file.Description
	f, ok := with.file.Function().(models.ConsistencyFunction)
	if !ok && d.Levels != nil {
		return usage("--search-times: the model was trained for the noise levels %.4g, and others are not searched for: leave the option out", d.Levels)
	}
	if !ok {
		return usage("--search-times: the model is a %s, and times are searched for few-step sampling from a consistency model", d.Kind)
	}
	if !o.Force {
		kept := need{host: 4 * elements(d.Network) * float64(n)}
		if err := kept.enough(dev, fmt.Sprintf("keeping the first step of %d images", n), "choose a smaller --n"); err != nil {
			return err
		}
	}
	by := evaluation.FD
	if o.SearchBy != "" {
		by = evaluation.Measure(o.SearchBy)
	}
	request := with.sample.request()
	trial := "times of the default"
	found, err := search.Levels(ctx, f, search.Options{
		Steps: o.Search, SigmaMax: d.SigmaMax, SigmaMin: d.SigmaMin, N: n, Shape: d.Network.Shape(), Batch: o.Batch, Seed: o.Seed, Device: dev,
		Cond: func(s *torch.Scope, first, n int) models.Cond { return request.Cond(s, d.Network, first, n) },
		Metric: func(ctx context.Context, samples search.Samples) (float64, error) {
			return r.Distance(ctx, by, imagesOf(samples), evaluation.Options{Progress: func(done int) { o.progress(trial+", image", done, n) }})
		},
		Progress: func(_ search.Trial, done, all int) { trial = fmt.Sprintf("trial %d of at most %d", done+1, all) },
	})
	if err != nil {
		return err
	}
	is := &Searched{By: string(by), Seed: o.Seed + uint64(n)}
	if _, jumps := f.(models.Jumper); jumps {
		is.Sampler = "multistep"
	}
	for _, t := range found.Trials {
		is.Trials = append(is.Trials, SearchTrial{t.Levels, t.Value})
	}
	is.Default = found.Before.Levels
	is.Times = slices.Clone(found.Levels)
	for i := range is.Times[1:] {
		is.Times[i+1] = fourDigits(is.Times[i+1])
	}
	measured := func(times []float64) (evaluation.Report, error) {
		s := with.sample
		s.Sampler, s.Steps, s.Times, s.Seed, s.N = "multistep", 0, times, is.Seed, n
		plan, err := with.model.Plan(ctx, s.request())
		if err != nil {
			return evaluation.Report{}, byFlag(err)
		}
		defer plan.Close()
		out.Sampler, out.Steps, out.Evaluations, out.Seed = plan.Sampler, plan.Steps, plan.Evaluations, is.Seed
		return r.Compare(ctx, planned(ctx, plan), evaluation.Options{
			Progress: func(done int) { o.progress(fmt.Sprintf("times %s, image", joined(times)), done, n) },
			Measure:  func() { o.progress("comparing", 0, 0) },
		})
	}
	before, err := measured(is.Default)
	if err != nil {
		return err
	}
	if out.Report, err = measured(is.Times); err != nil {
		return err
	}
	is.Before, is.Was = by.In(before), before.Interval
	is.Value, is.Interval = by.In(out.Report), out.Interval
	out.Search = is
	return nil
}

// fourDigits rounds a level to four digits.
func fourDigits(level float64) float64 {
	v, err := strconv.ParseFloat(strconv.FormatFloat(level, 'g', 4, 64), 64)
	if err != nil {
		return level
	}
	return v
}

// planned is the images of a plan.
func planned(ctx context.Context, plan *generate.Plan) evaluation.Images {
	return func(yield func(image.Image, error) bool) {
		for img, err := range plan.Images(ctx) {
			if !yield(img.Image, err) || err != nil {
				return
			}
		}
	}
}

// imagesOf is samples as images.
func imagesOf(samples search.Samples) evaluation.Images {
	return func(yield func(image.Image, error) bool) {
		going := true
		err := samples(func(_ *torch.Scope, _ int, x *torch.Tensor) error {
			images, err := vision.ToImages(x)
			if err != nil {
				return err
			}
			for _, img := range images {
				if going = yield(img, nil); !going {
					return context.Canceled // the consumer has stopped
				}
			}
			return nil
		})
		if err != nil && going {
			yield(nil, err)
		}
	}
}
