package training

import (
	"iter"
	"math/rand/v2"

	"github.com/onestep-go/onestep/torch"
)

// Batch is what one training step sees.
type Batch struct {
	Images *torch.Tensor // [B, C, H, W], in [-1, 1]
	Labels *torch.Tensor // [B] int64; nil without classes
	// Guidance is the scale of classifier-free guidance that a student learns to apply, [B]; nil: none. The teacher is a
	// models.Guided, and the student's network is told the scale.
	Guidance *torch.Tensor
}

// DropLabels returns a batch's preparation that gives a part of the samples no class, so that a network learns both what
// guidance needs (Ho & Salimans 2022, algorithm 1). null is the label for that.
func DropLabels(part float64, null int) func(s *torch.Scope, b Batch, d Draws) Batch {
	return func(s *torch.Scope, b Batch, d Draws) Batch {
		if b.Labels == nil {
			return b
		}
		dropped := make([]bool, b.Labels.Dim(0))
		for i := range dropped {
			dropped[i] = d.Host.Float64() < part
		}
		b.Labels = b.Labels.MaskedFill(s, torch.FromSlice(s, dropped), float64(null))
		return b
	}
}

// DrawGuidance returns a batch's preparation that draws a guidance scale for each sample, uniformly (Meng et al. 2023,
// algorithm 1).
func DrawGuidance(least, most float64) func(s *torch.Scope, b Batch, d Draws) Batch {
	return func(s *torch.Scope, b Batch, d Draws) Batch {
		w := make([]float64, b.Images.Dim(0))
		for i := range w {
			w[i] = least + (most-least)*d.Host.Float64()
		}
		b.Guidance = torch.FromSlice(s, w).To(s, b.Images.DType())
		return b
	}
}

// Draws is the randomness of one training step, a function of (seed, step) alone.
type Draws struct {
	Host    *rand.Rand       // times, indices
	Noise   *torch.Generator // Gaussian noise, on the training device
	Dropout uint64           // seed for dropout masks; networks that are compared use the same one

	// Observe is told each sample's loss before weights [B], and its noise level, by methods that have such; nil: nobody.
	Observe func(levels []float64, each *torch.Tensor)
}

// Objective is a training method: what to minimise and what to move after each optimizer step.
type Objective interface {
	// Loss returns the scalar to minimise at step k (from 0).
	Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor
	// Update runs after the optimizer's step k, to move target networks.
	Update(s *torch.Scope, k int)
	// State yields what a resumed run needs besides the model's weights, by names that stay the same.
	State() iter.Seq2[string, *torch.Tensor]
	// Stats returns the schedule's values at step k, for the log.
	Stats(k int) map[string]float64
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

// Draw returns step k's randomness for a run with that seed. The noise stream is on the scope's device.
func Draw(s *torch.Scope, seed uint64, k int) Draws {
	host := rand.New(rand.NewPCG(seed, uint64(k)))
	return Draws{
		Host:    host,
		Noise:   torch.NewGenerator(s, host.Uint64()>>1),
		Dropout: host.Uint64() >> 1,
	}
}
