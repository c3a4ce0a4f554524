package unet

import (
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// filterName is the name of the filter's tensor in checkpoints.
const filterName = "resample_filter"

// newFIR makes the filter as a buffer of the network, so that it is on the device of the weights.
func newFIR(p nn.Path, taps []float64) *blocks.FIR {
	if taps == nil {
		return nil
	}
	n := len(taps)
	return &blocks.FIR{Kernel: p.Buffer(filterName, blocks.Kernel(taps), 1, 1, n, n), Taps: n}
}

// pyramid is one level of NCSN++'s residual input pyramid (Song et al. 2021: "progressive growing" of the input, by residuals): the
// pyramid's features at the previous resolution, convolved and downsampled, are added to the output of the level's blocks and
// resampling. The sum is the input of the next level, and the pyramid's features there.
type pyramid struct {
	conv  nn.Conv2D
	fir   *blocks.FIR
	scale float64
}

// newPyramid makes the level. Convolution and filter are one linear map: the convolution pads for both, so that the filter sees
// convolved values beyond the edge and not zeros.
func newPyramid(p nn.Path, c Config, f *blocks.FIR, in, out int) *pyramid {
	return &pyramid{nn.NewConv2D(p, in, out, 3, torch.Conv2DOptions{Padding: 1 + f.Padding()}), f, c.SkipScale}
}

// forward returns scale·(h + down(conv(x))) for x of twice the size of h.
func (r *pyramid) forward(s *torch.Scope, x, h *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x = r.conv.Adapted(s, x, a)
		y := r.fir.Down(s, x, 0)
		y.AddInPlace(s, h) // neither operator saved its result
		if r.scale != 1 {
			y.MulScalarInPlace(s, r.scale)
		}
		return y
	})
}
