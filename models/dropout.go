package models

import (
	"math/rand/v2"

	"github.com/onestep-go/onestep/torch"
)

// Dropout is where a network's dropout masks come from: a seed. The zero value drops nothing out, as in evaluation.
//
// Every place of a network that drops out has a number, and a stream of its own that follows from the seed and that number. So a network
// called twice with equal seeds draws equal masks, and so does a block that is computed again, alone and in any order, as [torch.Checkpoint] does.
type Dropout struct {
	seed uint64
	on   bool
}

// DropoutFrom returns the masks of a seed.
func DropoutFrom(seed uint64) Dropout { return Dropout{seed, true} }

// Apply zeroes elements of x with probability p and scales the others by 1/(1-p), with the masks of a place. It returns x itself where d is
// the zero value or p is 0.
func (d Dropout) Apply(s *torch.Scope, x *torch.Tensor, p float64, place int) *torch.Tensor {
	if !d.on || p == 0 {
		return x
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		stream := torch.NewGenerator(s, rand.NewPCG(d.seed, uint64(place)).Uint64())
		return x.Dropout(s, p, stream)
	})
}
