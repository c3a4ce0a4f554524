package evaluation

import (
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Sliced is the sliced 2-Wasserstein distance (Rabin et al. 2011; Bonneel et al. 2015): features are projected on random directions θ of
// length 1, where the distance of two sets of numbers is that of their quantile functions Q:
//
//	SW² = mean over θ of ∫ (Q_a(u) - Q_b(u))² du
//
// Unlike the Fréchet distance it assumes no normal distribution. The zero value has the usual settings.
type Sliced struct {
	Projections int // 0: 128
	Seed        uint64
}

// Distance returns the distance of features a [n, D] and b [m, D].
func (c Sliced) Distance(s *torch.Scope, a, b *torch.Tensor) (distance float64, err error) {
	if err := pair(a, b, 1); err != nil {
		return 0, err
	}
	n := c.Projections
	if n == 0 {
		n = 128
	}
	if n < 1 {
		return 0, fmt.Errorf("evaluation: want at least 1 projection, got %d", n)
	}
	err = s.NoGrad(func(s *torch.Scope) error {
		theta := torch.Randn(s, torch.NewGenerator(s, c.Seed), torch.Float64, a.Dim(1), n)
		distance = along(s, a, b, theta.Div(s, theta.Square(s).SumDim(s, true, 0).Sqrt(s)))
		return nil
	})
	return distance, err
}

// along is the distance for the directions [D, L].
func along(s *torch.Scope, a, b, theta *torch.Tensor) float64 {
	sorted := func(x *torch.Tensor) [][]float64 {
		v := theta.Transpose(s, 0, 1).MatMul(s, x.To(s, torch.Float64).Transpose(s, 0, 1)) // [L, n]
		ordered, _ := v.Sort(s, 1, false)
		return slices.Collect(slices.Chunk(torch.ToSlice[float64](ordered), x.Dim(0)))
	}
	x, y := sorted(a), sorted(b)
	var sum float64
	for i := range x {
		sum += transport(x[i], y[i])
	}
	return math.Sqrt(sum / float64(len(x)))
}

// transport is the integral of the squared difference of the quantile functions of two sorted lists, which are steps of widths 1/n and 1/m.
func transport(a, b []float64) (sum float64) {
	n, m := len(a), len(b)
	for i, j, at := 0, 0, 0; i < n && j < m; {
		next := min((i+1)*m, (j+1)*n) // in units of 1/(n·m)
		d := a[i] - b[j]
		sum += d * d * float64(next-at)
		at = next
		if at == (i+1)*m {
			i++
		}
		if at == (j+1)*n {
			j++
		}
	}
	return sum / (float64(n) * float64(m))
}
