package vae

import (
	"github.com/onestep-go/onestep/torch"
)

// Autoencoder goes between pictures [n, 3, H, W] in [-1, 1] and latents [n, Channels, H/Factor, W/Factor] as U-Nets want them, that
// is with a deviation near 1. *KL and *Tiny are ones.
type Autoencoder interface {
	// Encode makes latents of pictures. A KL's are drawn from a distribution, by one stream for each picture or a single one for
	// all; nil takes the mean.
	Encode(s *torch.Scope, pictures *torch.Tensor, streams []*torch.Generator) *torch.Tensor
	// Decode makes pictures of latents; values may lie a little outside [-1, 1].
	Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor
	// Factor is how many pixels a latent stands for, in height and width.
	Factor() int
	// Channels is how many values a latent has.
	Channels() int
	// DType is the type of the weights, and of pictures and latents.
	DType() torch.DType
	Close()
}

var (
	_ Autoencoder = (*KL)(nil)
	_ Autoencoder = (*Tiny)(nil)
)
