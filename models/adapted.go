package models

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Adapted is a network with adapters in every call, such as the student that an adapter makes of its teacher's network: the network
// stays as it is, and may be the teacher at the same time.
type Adapted struct {
	Net      Network
	Adapters nn.Adapters // of the network's layers; a call's own in Cond come after them
	// Learned has the parameters that Adapted names as its own, such as the adapter's (a *lora.Adapter); nil: the network's.
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

// Parameters yields what is learned.
func (a *Adapted) Parameters() iter.Seq2[string, *torch.Tensor] {
	if a.Learned != nil {
		return a.Learned.Parameters()
	}
	return a.Net.Parameters()
}
