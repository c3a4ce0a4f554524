// Package blocks has what the networks of this project are built of, once: residual blocks, embeddings of timesteps, attention, up- and
// downsampling. They are plain structs of layers, made under a path of a network's weights, whose names are diffusers':
//
//	net, err := nn.Build(dev, dtype, seed, func(p nn.Path) {
//		first = blocks.NewResidual(p.Sub("resnets", 0), 32, 64, blocks.ResidualOptions{GroupsIn: 8, GroupsOut: 8, Eps: 1e-6})
//		...
//	})
//
// # Memory
//
// Without gradients a network needs as much memory as its largest block's intermediate results, if each is freed as soon as the next one is
// there. Blocks do that: intermediates of a block live in a scope of the block's own ([torch.Scope.Tidy]), large ones are freed before
// ([Release]), activations and sums are computed in place where no operator has saved their input. A block never changes or frees what
// its caller gave it, unless its documentation says so.
package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Release frees old, which was only needed to compute t, and returns t.
func Release(t, old *torch.Tensor) *torch.Tensor {
	old.Free()
	return t
}

// SiLU returns x·σ(x) (Hendrycks & Gimpel 2016) of a tensor that nobody else uses: it frees x, or computes in its memory where no gradient is
// recorded.
func SiLU(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if s.GradEnabled() {
		return Release(x.SiLU(s), x)
	}
	x.SiLUInPlace(s)
	return x
}

// NewConv makes a k×k convolution that keeps the image's size, for odd k, with PyTorch's initial values.
func NewConv(p nn.Path, in, out, k int) nn.Conv2D {
	return nn.NewConv2D(p, in, out, k, torch.Conv2DOptions{Padding: k / 2})
}
