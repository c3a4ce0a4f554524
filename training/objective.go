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
}

// Draws is the randomness of one training step, a function of (seed, step) alone.
type Draws struct {
	Host    *rand.Rand       // times, indices
	Noise   *torch.Generator // Gaussian noise, on the training device
	Dropout uint64           // seed for dropout masks; networks that are compared use the same one
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
