package training

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Batch is the input of one call of an objective.
type Batch struct {
	X *torch.Tensor // [B, ...]: clean samples x_0, such as images [B, C, H, W] in [-1, 1]
	// Cond is their conditioning, such as classes or text features. A guidance scale [B] in it is for guidance distillation: the
	// teacher is a models.Guided, and the student's network takes the scale. Dropout is set by the objective.
	Cond models.Cond
	// Weight is a factor of each sample's loss, [B], such as that of regularisation images (prior preservation, Ruiz et al. 2023); nil: 1.
	// The loss is the mean over the batch of Weight times a sample's loss: it is not divided by the sum of the weights.
	Weight *torch.Tensor
	// Captions are the samples' prompts, [B], whose text features are not in Cond yet, as of training with text encoders: a Prepare function
	// such as that of latents.Encode encodes them and sets Captions to nil. nil: none.
	Captions []string
}

// mean returns the batch's loss from those of its samples, [B].
func (b Batch) mean(s *torch.Scope, each *torch.Tensor) *torch.Tensor {
	if b.Weight == nil {
		return each.Mean(s)
	}
	if b.Weight.NDim() != 1 || b.Weight.Dim(0) != each.Dim(0) {
		panic(&torch.Error{Op: "loss", Msg: fmt.Sprintf("want one weight for each of %d samples (Batch.Weight), got shape %v", each.Dim(0), b.Weight.Shape())})
	}
	return each.Mul(s, b.Weight.To(s, each.DType())).Mean(s)
}

// row returns the batch's first sample.
func (b Batch) row(s *torch.Scope) Batch {
	b.X, b.Cond = b.X.Narrow(s, 0, 0, 1), b.Cond.Rows(s, torch.FromSlice(s, []int64{0}))
	if b.Weight != nil {
		b.Weight = b.Weight.Narrow(s, 0, 0, 1)
	}
	b.Captions = b.Captions[:min(len(b.Captions), 1)]
	return b
}

// exact returns the batch without mixed precision, for parts of a loss that are too sensitive for it.
func (b Batch) exact() Batch {
	b.Cond.Precision = torch.Float32
	return b
}

// masked returns the batch's conditions with the dropout masks of a seed. Networks that are compared use the same seed.
func (b Batch) masked(dropout uint64) models.Cond {
	c := b.Cond
	c.Dropout = models.DropoutFrom(dropout)
	return c
}

// DropLabels returns a Prepare function for label dropout: a fraction part of the samples gets the null class, so that the network
// learns both predictions of classifier-free guidance (Ho & Salimans 2022, algorithm 1). null is the label of the null class.
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

// DrawGuidance returns a Prepare function that draws a guidance scale for each sample, uniformly (Meng et al. 2023,
// algorithm 1).
func DrawGuidance(least, most float64) func(s *torch.Scope, b Batch, d Draws) Batch {
	return drawGuidance(func(u float64) float64 { return least + (most-least)*u })
}

// DrawGuidanceLog returns a Prepare function that draws a guidance scale for each sample, with a uniform logarithm: small scales are more
// frequent (Geng et al. 2025, "Improved Mean Flows", with β = 1).
func DrawGuidanceLog(least, most float64) func(s *torch.Scope, b Batch, d Draws) Batch {
	return drawGuidance(func(u float64) float64 { return least * math.Pow(most/least, u) })
}

// drawGuidance draws the scales at(u) with u uniform in [0, 1).
func drawGuidance(at func(u float64) float64) func(s *torch.Scope, b Batch, d Draws) Batch {
	return func(s *torch.Scope, b Batch, d Draws) Batch {
		w := make([]float64, b.X.Dim(0))
		for i := range w {
			w[i] = at(d.Samples[i].Float64())
		}
		b.Cond.Guidance = torch.FromSlice(s, w).To(s, b.X.DType())
		return b
	}
}

// Draws is the randomness of one call of an objective. The draws of a sample depend only on the seed and the sample's position in
// the run: a sample gets the same noise, noise level and label at any batch size, with gradient accumulation and on every device.
type Draws struct {
	Samples []*rand.Rand // one for each sample of the batch: noise, levels, timesteps, dropped labels
	Step    *rand.Rand   // shared by all samples of a step; depends on the seed and the step
	Dropout uint64       // seed of the step's dropout masks; networks that are compared use the same one

	// Observe receives each sample's unweighted loss [B] and its noise level, from objectives that have them; nil: no observer.
	Observe func(levels []float64, each *torch.Tensor)
}

// Draw returns the randomness of n samples at step k of a run with the given seed; first is the position of the first sample, from 0.
func Draw(seed uint64, k int, first int64, n int) Draws {
	const ofStep = 1 << 63 // separates the streams of steps from those of samples
	step := rand.New(rand.NewPCG(seed, ofStep|uint64(k)))
	d := Draws{Dropout: step.Uint64() >> 1, Step: step, Samples: make([]*rand.Rand, n)}
	for i := range d.Samples {
		d.Samples[i] = rand.New(rand.NewPCG(seed, uint64(first)+uint64(i)))
	}
	return d
}

// Noise draws standard normal noise for every sample, of the shape and type of x [B, ...]. It is drawn on the CPU: the cost is small
// compared with a training step, and less than that of a libtorch generator for each sample.
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

// Objective is a training method: the loss to minimise, and the update of target networks after each optimizer step. It may also
// implement [Validator], [Trier], [Staged] and [Describer], and [Module] if it has trainable parameters.
type Objective interface {
	// Loss returns the scalar to minimise at step k (from 0), a mean over the batch.
	Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor
	// Update runs after the optimizer's step k, to update target networks.
	Update(s *torch.Scope, k int)
	// State yields the tensors that a checkpoint needs besides the model's weights. Their names have to be stable.
	State() iter.Seq2[string, *torch.Tensor]
	// Stats returns the schedule's values at step k, for the log.
	Stats(k int) map[string]float64
}

// Validator is an [Objective] that validates its configuration. The trainer calls it before the first step.
type Validator interface {
	Validate() error
}

// Trier is an [Objective] that tests on one batch whether its network supports all that it needs, such as forward-mode derivatives. It
// panics with a *torch.Error on failure, as Loss does. The trainer calls it without gradients, with one sample of the first batch, before
// the first step; if it fails, a new run directory is removed.
type Trier interface {
	Try(s *torch.Scope, b Batch, d Draws)
}

// Staged is an [Objective] with several stages, each with its own learning-rate decay to 0.
type Staged interface {
	// Left is the remaining fraction of step k's stage, from 1 to 0.
	Left(k int) float64
}

// Leveled is an [Objective] whose model is sampled at fixed noise levels.
type Leveled interface {
	// Levels are the noise levels of the model at step k, largest first, and 0 after the last.
	Levels(k int) []float64
}

// Describer is an [Objective] that describes its model in a snapshot's metadata, which package models/checkpoint reads.
type Describer interface {
	Metadata(step int, images int64) (map[string]string, error)
}

// fixed is embedded by objectives that have no state besides the model.
type fixed struct{}

// Update does nothing.
func (fixed) Update(*torch.Scope, int) {}

// State yields nothing.
func (fixed) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// Stats returns nothing: the objective has no schedule.
func (fixed) Stats(int) map[string]float64 { return nil }
