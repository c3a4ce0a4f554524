package blocks

import (
	"slices"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// LastIsFaster reports whether a U-Net with as many channels in its levels takes images x to channels-last order inside, for which in is x in
// the type that it computes in. That pays off on the CPU: in bfloat16 oneDNN's convolutions then reorder no images, and in float32 there are
// kernels for them ([torch.Tensor.Conv3x3]). Norms have kernels for as many channels if SiLU follows, which with scaleShift it does not, but none
// with forward-mode derivatives. On a GPU it pays off in half precision: see [nn.LastOnGPU].
func LastIsFaster(s *torch.Scope, in, x *torch.Tensor, scaleShift bool, channels ...int) bool {
	if x.Device().IsCUDA() {
		return nn.LastOnGPU(x.Device(), in.DType()) && x.IsContiguous()
	}
	return (in.DType() == torch.BFloat16 || in.DType() == torch.Float32) && x.DType() == torch.Float32 && x.IsContiguous() &&
		!slices.ContainsFunc(channels, func(n int) bool { return n%16 != 0 }) && !scaleShift && torch.Fused() && !s.InJVP()
}

// Enter returns the first convolution's features h of images x, and the images, both in channels-last order if last is true.
func Enter(s *torch.Scope, conv nn.Conv2D, x *torch.Tensor, a nn.Adapters, last bool) (h, images *torch.Tensor) {
	if !last {
		return conv.Adapted(s, x, a), x
	}
	x = x.ChannelsLast(s)
	h = conv.Adapted(s, x, a)
	return Release(h.ChannelsLast(s), h), x // images of one channel are in both orders, and libtorch's convolution then chooses the other
}
