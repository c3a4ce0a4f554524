package models

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Forward calls a network as denoisers and consistency functions do, which compute in the samples' type: a network that says of what
// type its weights are, as all with an nn.Store do, computes in that one, and what goes in and comes out is cast here. So samples,
// losses and the steps of a sampler are in float32 over a network in half precision. Others are called as they are.
func Forward(s *torch.Scope, net Network, x, label *torch.Tensor, c Cond) *torch.Tensor {
	own, ok := net.(interface{ Store() *nn.Store })
	if !ok || !x.DType().IsFloat() {
		return net.Forward(s, x, label, c)
	}
	d := own.Store().DType()
	y := net.Forward(s, as(s, x, d), label, c.as(s, d))
	return as(s, y, x.DType())
}

// as casts x where it is of another type.
func as(s *torch.Scope, x *torch.Tensor, d torch.DType) *torch.Tensor {
	if x == nil || x.DType() == d {
		return x
	}
	return x.To(s, d)
}

// as casts what is features of a network. Labels, sizes and scales are numbers that networks embed, at their own precision.
func (c Cond) as(s *torch.Scope, d torch.DType) Cond {
	c.Text, c.Pooled = as(s, c.Text, d), as(s, c.Pooled, d)
	if c.Control != nil {
		c.Control = c.Control.each(func(t *torch.Tensor) *torch.Tensor { return as(s, t, d) })
	}
	return c
}
