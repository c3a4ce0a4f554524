package nn

import "github.com/onestep-go/onestep/torch"

// LastOnGPU reports whether convolutions on the device are faster in channels-last order in type d. They are on a GPU in half precision: cuDNN's
// kernels for tensor cores use this order and reorder other images before and after each call. libtorch's convolution uses it if the images
// or the weight have it. Networks in half precision therefore keep their weights in this order and reorder their images once, at the
// first convolution. A weight in float32 is cast and reordered for the call.
func LastOnGPU(dev torch.Device, d torch.DType) bool { return dev.IsCUDA() && isHalf(d) }

// toLast puts a weight [out, in, k, k] in channels-last order.
func toLast(s *torch.Scope, w *torch.Tensor) {
	last := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return w.Detach(s).ChannelsLast(s) })
	last.SetRequiresGrad(w.RequiresGrad())
	torch.Swap(w, last)
	last.Free()
}
