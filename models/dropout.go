package models

import (
	"math/rand/v2"

	"github.com/onestep-go/onestep/torch"
)

// Dropout is the seed of a network's dropout masks. The zero value disables dropout, as in evaluation.
//
// Every dropout layer of a network has a number. Its random stream depends on the seed and that number alone. So a network that is
// called twice with the same seed draws the same masks, and so does a single block that is recomputed, in any order, as by
// [torch.Checkpoint].
type Dropout struct {
	seed uint64
	on   bool
}

// DropoutFrom returns dropout with the masks of a seed.
func DropoutFrom(seed uint64) Dropout { return Dropout{seed, true} }

// Apply zeroes elements of x with probability p and scales the others by 1/(1-p). place is the number of the dropout layer. It returns
// x itself if d is the zero value or p is 0.
func (d Dropout) Apply(s *torch.Scope, x *torch.Tensor, p float64, place int) *torch.Tensor {
	if !d.on || p == 0 {
		return x
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		stream := torch.NewGenerator(s, rand.NewPCG(d.seed, uint64(place)).Uint64())
		return x.Dropout(s, p, stream)
	})
}
