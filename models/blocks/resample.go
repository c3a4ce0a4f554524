package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Downsample halves an image by a 3×3 convolution of stride 2, diffusers' Downsample2D. Odd sides are rounded up, with PadAfter down.
type Downsample struct {
	Conv     nn.Conv2D
	PadAfter bool // one row and one column of zeros after the image, in place of one on every side
}

// NewDownsample makes the layer, as conv.
func NewDownsample(p nn.Path, channels int, padAfter bool) *Downsample {
	o := torch.Conv2DOptions{Stride: 2, Padding: 1}
	if padAfter {
		o.Padding = 0
	}
	return &Downsample{nn.NewConv2D(p.Sub("conv"), channels, channels, 3, o), padAfter}
}

// Forward takes x [n, channels, h, w] to [n, channels, h/2, w/2].
func (d *Downsample) Forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	if !d.PadAfter {
		return d.Conv.Adapted(s, x, a)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return d.Conv.Adapted(s, x.Pad(s, []int{0, 1, 0, 1}, torch.PadConstant, 0), a)
	})
}

// Upsample repeats pixels and convolves, 3×3: diffusers' Upsample2D.
type Upsample struct{ Conv nn.Conv2D }

// NewUpsample makes the layer, as conv.
func NewUpsample(p nn.Path, channels int) *Upsample {
	return &Upsample{NewConv(p.Sub("conv"), channels, channels, 3)}
}

// Double takes x [n, channels, h, w] to twice its size.
func (u *Upsample) Double(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return u.To(s, x, 2*x.Dim(2), 2*x.Dim(3), a)
}

// To takes x [n, channels, h', w'] to h×w pixels: those of an image that was halved to x, which may have had odd sides.
func (u *Upsample) To(s *torch.Scope, x *torch.Tensor, h, w int, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return u.Conv.Adapted(s, x.Interpolate(s, h, w, torch.Nearest), a)
	})
}
