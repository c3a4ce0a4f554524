package training

import (
	"fmt"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Distance measures how far apart two batches of images are.
type Distance interface {
	// Distance returns one number per sample, [B], for a and b of shape [B, ...].
	Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor
}

// L1 is the mean absolute difference of a sample's elements.
type L1 struct{}

// Distance returns mean |a - b| over each sample, [B].
func (L1) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return a.Sub(s, b).Abs(s).Flatten(s, 1, -1).MeanDim(s, false, 1)
}

// L2 is the mean squared difference of a sample's elements: ‖a-b‖²/D.
type L2 struct{}

// Distance returns mean (a - b)² over each sample, [B].
func (L2) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return a.Sub(s, b).Square(s).Flatten(s, 1, -1).MeanDim(s, false, 1)
}

// PseudoHuber is √(‖a-b‖² + c²) - c over the whole sample, not element by element (Song & Dhariwal 2023, eq. 9).
type PseudoHuber struct {
	C float64 // 0: 0.00054·√D for samples of D elements, the paper's choice
}

// Distance returns √(‖a-b‖² + c²) - c of each sample, [B].
func (h PseudoHuber) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	d := a.Sub(s, b).Square(s).Flatten(s, 1, -1)
	c := h.C
	if c == 0 {
		c = 0.00054 * math.Sqrt(float64(d.Dim(1)))
	}
	return d.SumDim(s, false, 1).AddScalar(s, c*c).Sqrt(s).SubScalar(s, c)
}

// Norm is ‖a-b‖, the Euclidean length over the whole sample. Where a and b are nearly the same its gradient, which has length
// 1 anywhere else, falls to 0: below about 1e-6 an element.
type Norm struct{}

// Distance returns ‖a - b‖ of each sample, [B].
func (Norm) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return PseudoHuber{C: 1e-6 * math.Sqrt(float64(a.NumEl()/max(1, a.Dim(0))))}.Distance(s, a, b)
}

// ParseDistance returns the distance of that name: l1, l2, norm or huber.
func ParseDistance(name string) (Distance, error) {
	switch name {
	case "l1":
		return L1{}, nil
	case "l2":
		return L2{}, nil
	case "norm":
		return Norm{}, nil
	case "huber":
		return PseudoHuber{}, nil
	}
	return nil, fmt.Errorf("unknown distance %q: want l1, l2, norm or huber", name)
}
