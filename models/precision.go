package models

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Forward calls a network the way denoisers and consistency functions do: x and the result have the samples' type, and the network
// computes in the type of its weights. Inputs and outputs are cast, so that samples, losses and a sampler's steps stay in float32
// over a network in half precision. A network without an nn.Store, whose weight type is unknown, is called without casts.
func Forward(s *torch.Scope, net Network, x, label *torch.Tensor, c Cond) *torch.Tensor {
	d, ok := ownType(net)
	if !ok || !x.DType().IsFloat() {
		return net.Forward(s, x, label, c)
	}
	y := net.Forward(s, as(s, x, d), label, c.as(s, d))
	return as(s, y, x.DType())
}

// DTypeOf returns the type that a network computes in, of its weights, also beneath adapters. ok is false if it is unknown, as without an
// nn.Store.
func DTypeOf(net Network) (d torch.DType, ok bool) {
	if a, is := net.(*Adapted); is {
		return DTypeOf(a.Net)
	}
	return ownType(net)
}

func ownType(net Network) (torch.DType, bool) {
	own, ok := net.(interface{ Store() *nn.Store })
	if !ok {
		return 0, false
	}
	return own.Store().DType(), true
}

// as casts x if it is of another type.
func as(s *torch.Scope, x *torch.Tensor, d torch.DType) *torch.Tensor {
	if x == nil || x.DType() == d {
		return x
	}
	return x.To(s, d)
}

// as casts the features: text, pooled text and ControlNet residuals. Labels, sizes and scales are not cast: networks embed them at
// their own precision.
func (c Cond) as(s *torch.Scope, d torch.DType) Cond {
	c.Text, c.Pooled = as(s, c.Text, d), as(s, c.Pooled, d)
	if c.Control != nil {
		c.Control = c.Control.each(func(t *torch.Tensor) *torch.Tensor { return as(s, t, d) })
	}
	return c
}
