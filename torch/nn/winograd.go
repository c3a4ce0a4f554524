package nn

import "github.com/onestep-go/onestep/torch"

// winograd reports whether the layer computes x [B, in, H, W] by [torch.Tensor.Conv3x3], where that was measured to be faster than libtorch's
// convolution. It does not depend on whether gradients are wanted: a checkpointed block repeats its bits.
func (c Conv2D) winograd(x *torch.Tensor) bool {
	o := c.Opt
	if o.Padding != 1 || o.Stride > 1 || o.Dilation > 1 || o.Groups > 1 || !torch.FusedConv(x.DType()) || x.Device().IsCUDA() {
		return false
	}
	in, kernel := x.Shape(), c.Weight.Shape()
	if len(in) != 4 || kernel[2] != 3 || kernel[3] != 3 || in[1]%16 != 0 || kernel[0]%16 != 0 || !x.IsChannelsLastOnly() {
		return false
	}
	return winogradPays(in[0], in[2], in[3])
}

// winogradPays is the rule for a convolution of n images of h×w pixels: from 256 pixels on, against libtorch's convolution of plain and of packed
// weights. A call transforms the weight anew, which takes as long as the convolution of about 100 pixels, and longer where the transformed
// weight does not fit the cache: from 1280 to 1280 channels and at 256 pixels a call takes two thirds of the packed one's time in float32, and as
// long in bfloat16.
func winogradPays(n, h, w int) bool { return n*h*w >= 256 }
