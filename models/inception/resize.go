package inception

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Resize is how images are resized to Side×Side pixels. The default is [TensorFlow].
type Resize string

// The ways of resizing.
const (
	// TensorFlow is the bilinear resizing of TensorFlow 1, which is part of the graph of 2015: pixel i of n is at i·(size/n), without
	// the offset of half a pixel, and nothing is antialiased. The original FID and torch-fidelity have it, and so do most published figures.
	TensorFlow Resize = "tensorflow"
	// PyTorch is torch's bilinear resizing, without antialiasing, as in pytorch-fid.
	PyTorch Resize = "pytorch"
	// Clean is Pillow's bicubic resizing, antialiased and not rounded, as in clean-fid.
	Clean Resize = "clean"
)

// Resizes lists all ways of resizing.
func Resizes() []Resize { return []Resize{TensorFlow, PyTorch, Clean} }

// ResizeNamed returns the way of resizing of that name; "" is TensorFlow.
func ResizeNamed(name string) (Resize, error) {
	var names []string
	for _, r := range Resizes() {
		if name == string(r) || name == "" {
			return r, nil
		}
		names = append(names, string(r))
	}
	return "", fmt.Errorf("want %s, got %s", strings.Join(names, ", "), quote.Quoted(name))
}

// String describes the resizing as figures name it.
func (r Resize) String() string {
	switch r {
	case PyTorch:
		return "bilinear, 299"
	case Clean:
		return "bicubic, antialiased, 299"
	}
	return "TensorFlow 1 bilinear, 299"
}

// Input returns the network's input [B, 3, Side, Side] for RGB images [B, 3, H, W] in [-1, 1].
func (r Resize) Input(s *torch.Scope, images *torch.Tensor) *torch.Tensor {
	if images.NDim() != 4 || images.Dim(1) != 3 {
		panic(&torch.Error{Op: "inception", Msg: fmt.Sprintf("want RGB images [B, 3, H, W], got %v", images.Shape())})
	}
	fits := images.Dim(2) == Side && images.Dim(3) == Side
	if r == PyTorch { // whose input are images in [-1, 1]
		if fits {
			return images
		}
		return images.Interpolate(s, Side, Side, torch.Bilinear)
	}
	// The graph has (v - 128)/128 of bytes v = 127.5·(x + 1).
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := images
		switch {
		case fits:
		case r == Clean:
			x = x.Interpolate(s, Side, Side, torch.BicubicAntialias)
		default:
			x = along(s, along(s, x, 3), 2)
		}
		return x.MulScalar(s, 127.5/128).SubScalar(s, 0.5/128)
	})
}

// along resizes a dimension to Side as TensorFlow 1 does: output i lies at i·(size/Side), between two inputs.
func along(s *torch.Scope, x *torch.Tensor, dim int) *torch.Tensor {
	size := x.Dim(dim)
	scale := float32(size) / Side
	var low, high [Side]int64
	var part [Side]float32
	for i := range Side {
		at := float32(i) * scale
		low[i] = int64(at)
		high[i] = min(low[i]+1, int64(size)-1)
		part[i] = at - float32(low[i])
	}
	shape := []int{1, 1, 1, 1}
	shape[dim] = Side
	dev := func(t *torch.Tensor) *torch.Tensor { return t.ToDevice(s, x.Device()) }
	a := x.IndexSelect(s, dim, dev(torch.FromSlice(s, low[:])))
	b := x.IndexSelect(s, dim, dev(torch.FromSlice(s, high[:])))
	return a.Add(s, b.Sub(s, a).Mul(s, dev(torch.FromSlice(s, part[:], shape...)).To(s, x.DType())))
}
