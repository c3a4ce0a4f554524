// Package blocks has the building blocks that this module's networks share: residual blocks, timestep embeddings, attention, up- and
// downsampling. They are plain structs of layers. A constructor takes the path of the block's weights; their names are diffusers':
//
//	net, err := nn.Build(dev, dtype, seed, func(p nn.Path) {
//		first = blocks.NewResidual(p.Sub("resnets", 0), 32, 64, blocks.ResidualOptions{GroupsIn: 8, GroupsOut: 8, Eps: 1e-6})
//		...
//	})
//
// # Memory
//
// Without gradients, the peak memory of a network is that of its largest block, as long as every intermediate result is freed right after
// its last use. Blocks do that: their intermediate results live in a scope of their own ([torch.Scope.Tidy]), large ones are freed earlier
// ([Release]), and activations and sums are computed in place if no operator has saved their input. A block never changes or frees its
// arguments, unless its documentation says so.
package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Release frees old, an intermediate result that was only needed to compute t, and returns t.
func Release(t, old *torch.Tensor) *torch.Tensor {
	old.Free()
	return t
}

// SiLU returns x·σ(x) (Hendrycks & Gimpel 2016). It consumes x, which must not be used elsewhere: it frees x, or computes in place if no
// gradients are recorded.
func SiLU(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if s.GradEnabled() {
		return Release(x.SiLU(s), x)
	}
	x.SiLUInPlace(s)
	return x
}

// NewConv makes a k×k convolution that keeps the image size, for odd k, with PyTorch's initialisation.
func NewConv(p nn.Path, in, out, k int) nn.Conv2D {
	return nn.NewConv2D(p, in, out, k, torch.Conv2DOptions{Padding: k / 2})
}

// NearZero is the initialisation of the last layer of a residual branch or of a network, with that many inputs: PyTorch's, times 1e-3. Blocks
// then start close to the identity.
func NearZero(fanIn int) nn.Init { return nn.Scaled(nn.FanIn(fanIn), 1e-3) }
