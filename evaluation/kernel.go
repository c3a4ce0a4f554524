package evaluation

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/onestep-go/onestep/torch"
)

// Kernel is the kernel distance KID: the squared maximum mean discrepancy with the kernel k(x, y) = (x·y/D + 1)³, without bias (Bińkowski
// et al. 2018). The zero value has the usual settings.
type Kernel struct {
	Subsets int // 0: 100
	Size    int // of a subset, drawn without repetition; 0: 1000. At most as many as there are images
	Seed    uint64
}

// Distance returns the mean and the standard deviation over the subsets for features a [n, D] and b [m, D]. Subsets that have most of the images
// differ little, so that the deviation says little about other images; it is 0 where each has all images of both.
func (k Kernel) Distance(s *torch.Scope, a, b *torch.Tensor) (mean, std float64, err error) {
	if err := pair(a, b, 2); err != nil {
		return 0, 0, err
	}
	subsets, size := k.Subsets, k.Size
	if subsets == 0 {
		subsets = 100
	}
	if size == 0 {
		size = 1000
	}
	size = min(size, a.Dim(0), b.Dim(0))
	if subsets < 1 || size < 2 {
		return 0, 0, fmt.Errorf("evaluation: want at least 1 subset of 2 images, got %d of %d", subsets, size)
	}
	if size == a.Dim(0) && size == b.Dim(0) { // all subsets are the same: there is nothing to average, and no deviation
		subsets = 1
	}
	r := rand.New(rand.NewPCG(k.Seed, 0))
	var sum, squares float64
	for range subsets {
		err := s.NoGrad(func(s *torch.Scope) error {
			v := discrepancy(s, draw(s, r, a, size), draw(s, r, b, size))
			sum, squares = sum+v, squares+v*v
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	mean = sum / float64(subsets)
	return mean, math.Sqrt(max(0, squares/float64(subsets)-mean*mean)), nil
}

func draw(s *torch.Scope, r *rand.Rand, x *torch.Tensor, size int) *torch.Tensor {
	places := make([]int64, size)
	for i, at := range r.Perm(x.Dim(0))[:size] {
		places[i] = int64(at)
	}
	return x.IndexSelect(s, 0, torch.FromSlice(s, places)).To(s, torch.Float64)
}

// discrepancy is the unbiased estimate for n vectors each: the kernel's means without its diagonals.
func discrepancy(s *torch.Scope, x, y *torch.Tensor) float64 {
	n, d := float64(x.Dim(0)), float64(x.Dim(1))
	k := func(a, b *torch.Tensor) *torch.Tensor {
		v := a.MatMul(s, b.Transpose(s, 0, 1)).DivScalar(s, d).AddScalar(s, 1)
		return v.Mul(s, v).Mul(s, v)
	}
	own := func(a *torch.Tensor) float64 {
		diagonal := a.Square(s).SumDim(s, false, 1).DivScalar(s, d).AddScalar(s, 1)
		diagonal = diagonal.Mul(s, diagonal).Mul(s, diagonal)
		return (k(a, a).Sum(s).Item() - diagonal.Sum(s).Item()) / (n * (n - 1))
	}
	return own(x) + own(y) - 2*k(x, y).Sum(s).Item()/(n*n)
}

// pair checks that two sets of features can be compared.
func pair(a, b *torch.Tensor, least int) error {
	if a.NDim() != 2 || b.NDim() != 2 || a.Dim(1) != b.Dim(1) {
		return fmt.Errorf("evaluation: want features [n, D] and [m, D], got %v and %v", a.Shape(), b.Shape())
	}
	if n := min(a.Dim(0), b.Dim(0)); n < least {
		return fmt.Errorf("evaluation: want at least %d images in each set, got %d and %d", least, a.Dim(0), b.Dim(0))
	}
	return nil
}
