package nn

import "github.com/onestep-go/onestep/torch"

// LastOnGPU reports whether convolutions on the device compute faster in channels-last order in type d: on a GPU in half precision, where cuDNN's
// kernels for tensor cores want it, and otherwise reorder the images of every call, before and after. libtorch's convolution computes in this
// order if the images or the weight have it. Networks in half precision therefore have weights in it, and their images enter in it; a weight in
// float32 is cast and reordered for the call.
func LastOnGPU(dev torch.Device, d torch.DType) bool { return dev.IsCUDA() && isHalf(d) }

// toLast puts a weight [out, in, k, k] in channels-last order.
func toLast(s *torch.Scope, w *torch.Tensor) {
	last := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return w.Detach(s).ChannelsLast(s) })
	last.SetRequiresGrad(w.RequiresGrad())
	torch.Swap(w, last)
	last.Free()
}
