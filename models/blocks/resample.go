package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Downsample halves the image size by a 3×3 convolution of stride 2, as diffusers' Downsample2D. Odd sides are rounded up, or down with
// PadAfter.
type Downsample struct {
	Conv     nn.Conv2D
	PadAfter bool // pad with zeros on the right and at the bottom only, instead of on all sides
}

// NewDownsample makes the layer; its convolution is named conv.
func NewDownsample(p nn.Path, channels int, padAfter bool) *Downsample {
	o := torch.Conv2DOptions{Stride: 2, Padding: 1}
	if padAfter {
		o.Padding = 0
	}
	return &Downsample{nn.NewConv2D(p.Sub("conv"), channels, channels, 3, o), padAfter}
}

// Forward maps x [n, channels, h, w] to [n, channels, h/2, w/2].
func (d *Downsample) Forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	if !d.PadAfter {
		return d.Conv.Adapted(s, x, a)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return d.Conv.Adapted(s, x.Pad(s, []int{0, 1, 0, 1}, torch.PadConstant, 0), a)
	})
}

// Upsample is nearest-neighbour upsampling followed by a 3×3 convolution, as diffusers' Upsample2D.
type Upsample struct{ Conv nn.Conv2D }

// NewUpsample makes the layer; its convolution is named conv.
func NewUpsample(p nn.Path, channels int) *Upsample {
	return &Upsample{NewConv(p.Sub("conv"), channels, channels, 3)}
}

// Double maps x [n, channels, h, w] to [n, channels, 2h, 2w].
func (u *Upsample) Double(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return u.To(s, x, 2*x.Dim(2), 2*x.Dim(3), a)
}

// To maps x [n, channels, h', w'] to [n, channels, h, w], the size before a Downsample, whose sides may have been odd.
func (u *Upsample) To(s *torch.Scope, x *torch.Tensor, h, w int, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return u.Conv.Adapted(s, x.Interpolate(s, h, w, torch.Nearest), a)
	})
}
