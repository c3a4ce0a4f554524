package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// FIR is a resampling filter that is applied to each channel: the outer product of symmetric taps with itself, with zero padding. nil is the
// filter 1, 1: average pooling down, nearest-neighbour interpolation up.
type FIR struct {
	Kernel *torch.Tensor // [1, 1, taps, taps], of sum 1
	Taps   int
}

// Kernel fills in a filter's kernel: the outer product of taps with itself, divided by its sum.
func Kernel(taps []float64) nn.Init {
	sum := 0.0
	for _, v := range taps {
		sum += v
	}
	outer := make([]float64, 0, len(taps)*len(taps))
	for _, a := range taps {
		for _, b := range taps {
			outer = append(outer, a*b/(sum*sum))
		}
	}
	return func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) {
		t.CopyFrom(s, torch.FromSlice(s, outer, 1, 1, len(taps), len(taps)))
	}
}

// Padding is the zero padding of each edge that makes the halved or doubled size exact.
func (f *FIR) Padding() int {
	if f == nil {
		return 0
	}
	return f.Taps/2 - 1
}

// Resize returns the function that halves or doubles images, for [ResidualOptions].
func (f *FIR) Resize(down bool) func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if down {
		return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return f.Down(s, x, f.Padding()) }
	}
	return f.Up
}

// Down halves x [B, C, H, W] with zero padding of each edge: f.Padding(), or 0 if x is padded already.
func (f *FIR) Down(s *torch.Scope, x *torch.Tensor, padding int) *torch.Tensor {
	if f == nil {
		return x.AvgPool2D(s, 2)
	}
	c := x.Dim(1)
	w := f.Kernel.To(s, x.DType()).Expand(s, c, 1, f.Taps, f.Taps)
	return x.Conv2D(s, w, nil, torch.Conv2DOptions{Stride: 2, Padding: padding, Groups: c})
}

// Up doubles x [B, C, H, W]: zeros between the pixels, filtered with four times the weight. The transposed convolution takes a
// seventh of the time of the equivalent plain one on repeated pixels; on channels-last images it takes the same time.
func (f *FIR) Up(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if f == nil {
		return x.UpsampleNearest(s, 2)
	}
	c, pad := x.Dim(1), f.Padding()
	w := f.Kernel.MulScalar(s, 4).To(s, x.DType()).Expand(s, c, 1, f.Taps, f.Taps)
	y, err := torch.Call(s, "aten::conv_transpose2d.input", x, w, nil, []int{2, 2}, []int{pad, pad}, []int{0, 0}, c)
	if err != nil {
		panic(err) // a *torch.Error, as operators panic
	}
	return y[0].(*torch.Tensor)
}
