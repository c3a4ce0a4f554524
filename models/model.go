// Package models has what networks are turned into: denoisers and consistency functions, their noise levels, and
// averages of their weights. The networks themselves are in its subpackages.
package models

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
)

// Cond is what a network is told besides the image and its noise. The zero value is the unconditional case, in
// evaluation.
type Cond struct {
	Class *torch.Tensor // [B] int64; nil: none
	// Until is the end of a jump, for networks of two times: [B], in the form that the network embeds; nil: none.
	Until *torch.Tensor
	// Guidance is the scale of classifier-free guidance that the network has learned to apply by itself: [B]; nil: none.
	Guidance *torch.Tensor
	Dropout  *torch.Generator // where dropout masks come from; nil: no dropout, as in evaluation
}

// Rows returns the conditions of some samples, by their places [n] int64 in the batch.
func (c Cond) Rows(s *torch.Scope, places *torch.Tensor) Cond {
	for _, t := range []**torch.Tensor{&c.Class, &c.Until, &c.Guidance} {
		if *t != nil {
			*t = (*t).IndexSelect(s, 0, places)
		}
	}
	return c
}

// Network is a raw network F_θ. x is [B, C, H, W]; noise is [B], already in the form the network embeds (c_noise).
type Network interface {
	Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor
	Parameters() iter.Seq2[string, *torch.Tensor]
}

// Denoiser is E[x_0 | x_t], for x [B, C, H, W] at noise levels t [B].
type Denoiser interface {
	Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor
}

// ConsistencyFunction maps a point of a trajectory to the trajectory's clean end, for x [B, C, H, W] at noise levels t
// [B]. The name differs from Denoiser's, so that a teacher in a one-step sampler does not compile.
type ConsistencyFunction interface {
	Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor
}
