package models

import (
	"iter"
	"maps"
	"sync"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/replay"
)

// Replayed is a network whose calls on a GPU are replayed as CUDA graphs: see [replay.Graphs]. Other calls, those with gradients or dropout, and
// those on a CPU, are the network's. All calls without gradients have to go through it, with the network's weights in their place:
// it notices other adapters and [nn.Store.Merge], and then records anew. Close it before the network.
type Replayed struct {
	Net    Network
	Store  *nn.Store // that has the network's weights
	Graphs *replay.Graphs

	mu       sync.Mutex
	state    int // counts the changes of what follows
	adapters nn.Adapters
	merges   int
}

var _ Network = (*Replayed)(nil)

// Parameters are the network's.
func (r *Replayed) Parameters() iter.Seq2[string, *torch.Tensor] { return r.Net.Parameters() }

// Forward returns the network's output.
func (r *Replayed) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	if s.GradEnabled() || c.Dropout.on {
		return r.Net.Forward(s, x, noise, c)
	}
	type key struct {
		state, down int
		precision   torch.DType
	}
	k := key{state: r.stateOf(c.Adapters), precision: c.Precision, down: -1}
	if c.Control != nil {
		k.down = len(c.Control.Down)
	}
	return r.Graphs.Call(s, k, func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
		return r.Net.Forward(s, in[0], in[1], c.withTensors(in[2:]))
	}, append([]*torch.Tensor{x, noise}, c.tensors()...)...)
}

// stateOf returns the state of a call with these adapters. Where it is another one than that of the call before, the graphs go: they read
// weights that may be freed.
func (r *Replayed) stateOf(adapters nn.Adapters) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	adapters.Usable()
	if m := r.Store.Merges(); m != r.merges || !adapters.Equal(r.adapters) {
		r.state++
		r.adapters, r.merges = maps.Clone(adapters), m
		r.Graphs.Close()
	}
	return r.state
}

// tensors returns the tensors of c, nil for those that it does not have.
func (c Cond) tensors() (all []*torch.Tensor) {
	for _, f := range c.fields() {
		all = append(all, *f.t)
	}
	if c.Control != nil {
		all = append(append(all, c.Control.Mid), c.Control.Down...)
	}
	return all
}

// withTensors returns c with other tensors in the places of those that tensors returns.
func (c Cond) withTensors(all []*torch.Tensor) Cond {
	fields := c.fields()
	for i, f := range fields {
		*f.t = all[i]
	}
	if all = all[len(fields):]; c.Control != nil {
		c.Control = &Residuals{Mid: all[0], Down: all[1:]}
	}
	return c
}

// Close frees the graphs.
func (r *Replayed) Close() { r.Graphs.Close() }
