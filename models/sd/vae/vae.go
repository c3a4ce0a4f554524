package vae

import (
	"github.com/onestep-go/onestep/torch"
)

// Autoencoder converts between images [n, 3, H, W] in [-1, 1] and latents [n, Channels, H/Factor, W/Factor] in the U-Net's scale, with a
// standard deviation near 1. *KL and *Tiny implement it.
type Autoencoder interface {
	// Encode encodes images as latents. KL samples them from a distribution, with one random stream for each image or a single one for all;
	// without streams it returns the mean.
	Encode(s *torch.Scope, images *torch.Tensor, streams []*torch.Generator) *torch.Tensor
	// Decode decodes latents to images; values may be slightly outside [-1, 1].
	Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor
	// Factor is the number of image pixels per latent pixel, in height and width.
	Factor() int
	// Channels is the number of latent channels.
	Channels() int
	// DType is the data type of the weights, images and latents.
	DType() torch.DType
	Close()
}

var (
	_ Autoencoder = (*KL)(nil)
	_ Autoencoder = (*Tiny)(nil)
)
