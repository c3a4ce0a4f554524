package edit

import (
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Transform is an invertible linear map A of images [B, C, H, W] to tensors of the same shape. If it has a method Fits(shape []int) error, it is
// asked about the images' shape first.
type Transform interface {
	Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor // A x
	Inverse(s *torch.Scope, x *torch.Tensor) *torch.Tensor // A⁻¹ x
}

// Both transforms are changes of basis by an orthogonal matrix Q whose first column is a given unit vector v. In the paper, Q is made by
// Gram-Schmidt, in the authors' code by a QR decomposition of [v, e_2, e_3, …]. The other columns have no influence on results, since all of
// their coordinates are generated. Here Q is the Householder reflection with which such a decomposition begins,
//
//	Q = I - 2·w·wᵀ/(wᵀw)        w = v - e_1
//
// It is orthogonal and symmetric, so that A = A⁻¹, and takes a multiple of the vector's length instead of its square.

// luminance is the vector of grey: the weights of red, green and blue in the luminance of Rec. 601, rounded as in the paper.
var luminance = [3]float64{0.2989, 0.5870, 0.1140}

// Colour is a change of basis of the three channels. The first channel of A x is the luminance (0.2989, 0.5870, 0.1140)·x, divided by the length
// of this vector; the others are colour.
type Colour struct{}

// Fits returns an error for images without three channels.
func (Colour) Fits(shape []int) error {
	if len(shape) != 4 || shape[1] != 3 {
		return fmt.Errorf("edit: the colour transform needs images of 3 channels, got shape %v", shape)
	}
	return nil
}

// Forward returns A x for x [B, 3, H, W].
func (Colour) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	length := math.Sqrt(luminance[0]*luminance[0] + luminance[1]*luminance[1] + luminance[2]*luminance[2])
	w := make([]float64, 3)
	for i, v := range luminance {
		w[i] = v / length
	}
	w[0]--
	return reflect(s, x, torch.FromSlice(s, w, 1, 3, 1, 1), 1)
}

// Inverse returns A⁻¹ x.
func (c Colour) Inverse(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return c.Forward(s, x) }

// Patches is a change of basis of each Size×Size patch of each channel. At the place of a patch's first pixel, A x has the mean of the patch,
// times Size; the other coordinates are its detail.
type Patches struct{ Size int }

// Fits returns an error for images that do not consist of whole patches.
func (p Patches) Fits(shape []int) error {
	if p.Size < 1 || len(shape) != 4 || shape[2]%p.Size != 0 || shape[3]%p.Size != 0 {
		return fmt.Errorf("edit: want patches of a size that divides the images' height and width, got size %d and shape %v", p.Size, shape)
	}
	return nil
}

// Forward returns A x for x [B, C, H, W].
func (p Patches) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if p.Size == 1 {
		return x // v is e_1
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := x.Shape()
		k := p.Size
		w := make([]float64, k*k)
		for i := range w {
			w[i] = 1 / float64(k)
		}
		w[0]--
		rows := x.Reshape(s, shape[0], shape[1], shape[2]/k, k, shape[3]/k, k)
		return reflect(s, rows, torch.FromSlice(s, w, 1, 1, 1, k, 1, k), 3, 5).Reshape(s, shape...)
	})
}

// Inverse returns A⁻¹ x.
func (p Patches) Inverse(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return p.Forward(s, x) }

// detail is the mask Ω that keeps the mean of each patch, [H, W].
func (p Patches) detail(s *torch.Scope, height, width int) *torch.Tensor {
	mask := make([]float32, height*width)
	for i := range mask {
		if i/width%p.Size != 0 || i%width%p.Size != 0 {
			mask[i] = 1
		}
	}
	return torch.FromSlice(s, mask, height, width)
}

// reflect returns x - 2·w·(w·x)/(w·w), with scalar products along dims.
func reflect(s *torch.Scope, x, w *torch.Tensor, dims ...int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		factor := 2 / w.Square(s).Sum(s).Item()
		w = w.To(s, x.DType())
		along := x.Mul(s, w).SumDim(s, true, dims...).MulScalar(s, factor)
		return x.Sub(s, along.Mul(s, w))
	})
}
