package unet

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// fir is the resampling filter, applied to each channel: the outer product of Config.Filter with itself, with zero padding. nil is the
// filter 1, 1: average pooling down, nearest-neighbour interpolation up.
type fir struct {
	kernel *torch.Tensor // [1, 1, taps, taps], of sum 1
	taps   int
}

// filterName is the name of the filter's tensor in checkpoints.
const filterName = "resample_filter"

// newFIR makes the filter as a buffer of the network, so that it is on the device of the weights.
func newFIR(p nn.Path, taps []float64) *fir {
	if taps == nil {
		return nil
	}
	n, sum := len(taps), 0.0
	for _, v := range taps {
		sum += v
	}
	outer := make([]float64, 0, n*n)
	for _, a := range taps {
		for _, b := range taps {
			outer = append(outer, a*b/(sum*sum))
		}
	}
	fill := func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) {
		t.CopyFrom(s, torch.FromSlice(s, outer, 1, 1, n, n))
	}
	return &fir{p.Buffer(filterName, fill, 1, 1, n, n), n}
}

// padding is the zero padding of each edge that makes the halved or doubled size exact.
func (f *fir) padding() int {
	if f == nil {
		return 0
	}
	return f.taps/2 - 1
}

// down halves x [B, C, H, W] with zero padding of each edge: f.padding(), or 0 if x is padded already.
func (f *fir) down(s *torch.Scope, x *torch.Tensor, padding int) *torch.Tensor {
	if f == nil {
		return x.AvgPool2D(s, 2)
	}
	c := x.Dim(1)
	w := f.kernel.Expand(s, c, 1, f.taps, f.taps)
	return x.Conv2D(s, w, nil, torch.Conv2DOptions{Stride: 2, Padding: padding, Groups: c})
}

// up doubles x [B, C, H, W]: zeros between the pixels, filtered with four times the weight. The transposed convolution takes a
// seventh of the time of the equivalent plain one on repeated pixels; on channels-last images it takes the same time.
func (f *fir) up(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if f == nil {
		return x.UpsampleNearest(s, 2)
	}
	c, pad := x.Dim(1), f.padding()
	w := f.kernel.MulScalar(s, 4).Expand(s, c, 1, f.taps, f.taps)
	y, err := torch.Call(s, "aten::conv_transpose2d.input", x, w, nil, []int{2, 2}, []int{pad, pad}, []int{0, 0}, c)
	if err != nil {
		panic(err) // a *torch.Error, as operators panic
	}
	return y[0].(*torch.Tensor)
}

// pyramid is one level of NCSN++'s residual input pyramid (Song et al. 2021: "progressive growing" of the input, by residuals): the
// pyramid's features at the previous resolution, convolved and downsampled, are added to the output of the level's blocks and
// resampling. The sum is the input of the next level, and the pyramid's features there.
type pyramid struct {
	conv  nn.Conv2D
	fir   *fir
	scale float64
}

// newPyramid makes the level. Convolution and filter are one linear map: the convolution pads for both, so that the filter sees
// convolved values beyond the edge and not zeros.
func newPyramid(p nn.Path, c Config, f *fir, in, out int) *pyramid {
	return &pyramid{nn.NewConv2D(p, in, out, 3, torch.Conv2DOptions{Padding: 1 + f.padding()}), f, c.SkipScale}
}

// forward returns scale·(h + down(conv(x))) for x of twice the size of h.
func (r *pyramid) forward(s *torch.Scope, x, h *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x = r.conv.Adapted(s, x, a)
		y := r.fir.down(s, x, 0)
		y.AddInPlace(s, h) // neither operator saved its result
		if r.scale != 1 {
			y.MulScalarInPlace(s, r.scale)
		}
		return y
	})
}
