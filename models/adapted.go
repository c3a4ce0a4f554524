package models

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Adapted is a network with adapters that apply in every call, such as a student that shares its teacher's network: the network itself
// is unchanged, and can serve as the teacher at the same time.
type Adapted struct {
	Net      Network
	Adapters nn.Adapters // of the network's layers; those in a call's Cond are applied after them
	// Learned yields the trainable parameters, such as those of a *lora.Adapter; nil: the network's.
	Learned interface {
		Parameters() iter.Seq2[string, *torch.Tensor]
	}
}

var _ Network = (*Adapted)(nil)

// Forward calls the network with the adapters.
func (a *Adapted) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	c.Adapters = a.Adapters.And(c.Adapters)
	return Forward(s, a.Net, x, noise, c)
}

// Parameters yields the trainable parameters: those of Learned, or the network's if it is nil.
func (a *Adapted) Parameters() iter.Seq2[string, *torch.Tensor] {
	if a.Learned != nil {
		return a.Learned.Parameters()
	}
	return a.Net.Parameters()
}
