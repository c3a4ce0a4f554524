package training

import (
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Distance is a distance between the images of two batches.
type Distance interface {
	// Distance returns one value per sample, [B], for a and b of shape [B, ...].
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

// ElementHuber is the pseudo-Huber distance element by element, the mean of √(d² + c²) - c over the differences d of a sample's elements:
// the loss of the published latent consistency models. [PseudoHuber] takes the norm of the whole sample instead.
type ElementHuber struct {
	C float64 // 0: 0.001
}

// Distance returns mean √((a - b)² + c²) - c over each sample, [B].
func (h ElementHuber) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	c := h.C
	if c == 0 {
		c = 0.001
	}
	return a.Sub(s, b).Square(s).AddScalar(s, c*c).Sqrt(s).SubScalar(s, c).Flatten(s, 1, -1).MeanDim(s, false, 1)
}

// Norm is ‖a-b‖, the Euclidean norm over the whole sample. Its gradient has norm 1, except if a and b are nearly equal, within about
// 1e-6 per element, where it decreases to 0.
type Norm struct{}

// Distance returns ‖a - b‖ of each sample, [B].
func (Norm) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return PseudoHuber{C: 1e-6 * math.Sqrt(float64(a.NumEl()/max(1, a.Dim(0))))}.Distance(s, a, b)
}

// FeatureNetwork is a network whose features are compared in a perceptual loss: a *lpips.LPIPS, or a user's own classifier or encoder.
type FeatureNetwork interface {
	// Features returns the outputs of the compared layers, each [B, C, ...], for images x [B, ...]. Gradients have to flow to x.
	Features(s *torch.Scope, x *torch.Tensor) []*torch.Tensor
}

// Features is a perceptual loss over the layers l of a network (Johnson et al. 2016):
//
//	d(a, b) = Σ_l mean (φ_l(a) - φ_l(b))²
//
// The mean is over a layer's channels and positions. The network has to be frozen (nn.Store.SetRequiresGrad), or it would learn to
// reduce the distance itself.
type Features struct {
	Net FeatureNetwork
	// Normalized divides the channels at each position by their norm first, as in LPIPS, so that a layer's weight does not depend on the
	// scale of its features.
	Normalized bool
}

// Distance returns Σ_l mean (φ_l(a) - φ_l(b))² of each sample, [B]. Gradients are recorded for a or b only if it requires them.
func (f Features) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y, z := f.features(s, a), f.features(s, b)
		if len(y) == 0 || len(y) != len(z) {
			panic(&torch.Error{Op: "features", Msg: fmt.Sprintf("want the same layers of both images, at least one, got %d and %d",
				len(y), len(z))})
		}
		sum := f.layer(s, y[0], z[0])
		for i := 1; i < len(y); i++ {
			sum = sum.Add(s, f.layer(s, y[i], z[i]))
		}
		return sum
	})
}

// features computes the features of images that require no gradients without recording any, even if the network's weights require them.
func (f Features) features(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	if x.RequiresGrad() {
		return f.Net.Features(s, x)
	}
	var out []*torch.Tensor
	if err := s.NoGrad(func(inner *torch.Scope) error {
		for _, y := range f.Net.Features(inner, x) {
			out = append(out, y.Share(s))
		}
		return nil
	}); err != nil {
		panic(err)
	}
	return out
}

func (f Features) layer(s *torch.Scope, y, z *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		if f.Normalized {
			y, z = unitFeatures(s, y), unitFeatures(s, z)
		}
		return L2{}.Distance(s, y, z)
	})
}

// unitFeatures divides the vectors along dimension 1 by their norm; 0 stays 0, with a finite gradient.
func unitFeatures(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	const eps = 1e-10
	length := x.Square(s).SumDim(s, true, 1).AddScalar(s, eps*eps).Sqrt(s)
	return x.Div(s, length.AddScalar(s, eps))
}

// ParseDistance returns a distance by name: l1, l2, norm or huber. Perceptual distances have no name, since they need a network.
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
	return nil, fmt.Errorf("unknown distance %s: want l1, l2, norm or huber", quote.Quoted(name))
}
