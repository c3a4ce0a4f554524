package training

import (
	"iter"
	"math/rand/v2"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Batch is what one call of an objective sees.
type Batch struct {
	X *torch.Tensor // [B, ...]: clean samples x_0, such as images [B, C, H, W] in [-1, 1]
	// Cond is what goes with them: their class, or text. A guidance scale [B] in it is one that a student learns to apply; the
	// teacher is a models.Guided then, and the student's network takes the scale. Dropout is the objective's to set.
	Cond models.Cond
}

// masked returns the batch's conditions with the dropout masks of that seed: networks that are compared use the same.
func (b Batch) masked(dropout uint64) models.Cond {
	c := b.Cond
	c.Dropout = models.DropoutFrom(dropout)
	return c
}

// DropLabels returns a batch's preparation that gives a part of the samples no class, so that a network learns both what
// guidance needs (Ho & Salimans 2022, algorithm 1). null is the label for that.
func DropLabels(part float64, null int) func(s *torch.Scope, b Batch, d Draws) Batch {
	return func(s *torch.Scope, b Batch, d Draws) Batch {
		if b.Cond.Class == nil {
			return b
		}
		dropped := make([]bool, b.Cond.Class.Dim(0))
		for i := range dropped {
			dropped[i] = d.Samples[i].Float64() < part
		}
		b.Cond.Class = b.Cond.Class.MaskedFill(s, torch.FromSlice(s, dropped), float64(null))
		return b
	}
}

// DrawGuidance returns a batch's preparation that draws a guidance scale for each sample, uniformly (Meng et al. 2023,
// algorithm 1).
func DrawGuidance(least, most float64) func(s *torch.Scope, b Batch, d Draws) Batch {
	return func(s *torch.Scope, b Batch, d Draws) Batch {
		w := make([]float64, b.X.Dim(0))
		for i := range w {
			w[i] = least + (most-least)*d.Samples[i].Float64()
		}
		b.Cond.Guidance = torch.FromSlice(s, w).To(s, b.X.DType())
		return b
	}
}

// Draws is the randomness of one call of an objective. What belongs to a sample is a function of (seed, position of the sample in
// the run) alone: the same sample gets the same noise, levels and labels whatever the batch size, however many batches make a step,
// and on every device.
type Draws struct {
	Samples []*rand.Rand // for each sample of the batch: its noise, levels, steps, dropped labels
	Step    *rand.Rand   // what all samples of a step share, a function of (seed, step)
	Dropout uint64       // seed for dropout masks, likewise of the step; networks that are compared use the same one

	// Observe is told each sample's loss before weights [B], and its noise level, by methods that have such; nil: nobody.
	Observe func(levels []float64, each *torch.Tensor)
}

// Draw returns the randomness of n samples, the first of them the run's sample first (from 0), at step k of a run with that seed.
func Draw(seed uint64, k int, first int64, n int) Draws {
	const ofStep = 1 << 63 // steps and samples have streams of their own
	step := rand.New(rand.NewPCG(seed, ofStep|uint64(k)))
	d := Draws{Dropout: step.Uint64() >> 1, Step: step, Samples: make([]*rand.Rand, n)}
	for i := range d.Samples {
		d.Samples[i] = rand.New(rand.NewPCG(seed, uint64(first)+uint64(i)))
	}
	return d
}

// Noise draws the next standard normal noise of every sample, of the shape and type of x [B, ...]. It is drawn on the host, which
// takes a small part of any network's step, and less than a stream of libtorch's for each sample.
func (d Draws) Noise(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		each := x.NumEl() / max(len(d.Samples), 1)
		z := make([]float64, 0, x.NumEl())
		for _, r := range d.Samples {
			for range each {
				z = append(z, r.NormFloat64())
			}
		}
		return torch.FromSlice(s, z, x.Shape()...).To(s, x.DType())
	})
}

// Objective is a training method: what to minimise and what to move after each optimizer step. It may be more: see [Validator],
// [Trier], [Staged] and [Describer]; and a [Module] where it learns parameters of its own.
type Objective interface {
	// Loss returns the scalar to minimise at step k (from 0): a mean over the batch, so that the mean over the batches of a step is
	// that over its samples.
	Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor
	// Update runs after the optimizer's step k, to move target networks.
	Update(s *torch.Scope, k int)
	// State yields what a resumed run needs besides the model's weights, by names that stay the same.
	State() iter.Seq2[string, *torch.Tensor]
	// Stats returns the schedule's values at step k, for the log.
	Stats(k int) map[string]float64
}

// Validator is an [Objective] that can tell what cannot work before any step is taken. The trainer asks it first.
type Validator interface {
	Validate() error
}

// Trier is an [Objective] that finds out what its network cannot do, such as derivatives in time, by one batch; what fails panics
// with a *torch.Error, as in Loss. The trainer calls it without gradients, with one sample of the first batch, before the first step;
// where it fails nothing is left of a new run.
type Trier interface {
	Try(s *torch.Scope, b Batch, d Draws)
}

// Staged is an [Objective] of several stages, in each of which the learning rate is to fall to 0.
type Staged interface {
	// Left is the part of step k's stage that is left, from 1 to 0.
	Left(k int) float64
}

// Leveled is an [Objective] whose model is for certain noise levels: those that it is sampled with.
type Leveled interface {
	// Levels are the noise levels of the model at step k, largest first, and 0 after the last.
	Levels(k int) []float64
}

// Describer is an [Objective] that describes the model in a snapshot, as metadata that package models/checkpoint reads.
type Describer interface {
	Metadata(step int, images int64) (map[string]string, error)
}

// fixed is what objectives share that move nothing but the model.
type fixed struct{}

// Update has nothing to move.
func (fixed) Update(*torch.Scope, int) {}

// State is empty.
func (fixed) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// Stats is empty: nothing changes during a run.
func (fixed) Stats(int) map[string]float64 { return nil }
