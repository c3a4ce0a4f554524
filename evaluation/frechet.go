package evaluation

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
)

// Frechet returns the squared Fréchet distance of the normal distributions with these moments (Dowson & Landau 1982), the "FID" of
// Heusel et al. 2017 for their features:
//
//	|μ_a - μ_b|² + tr(C_a + C_b - 2·(C_a·C_b)^½)
//
// The trace of the root is that of (C_a^½·C_b·C_a^½)^½, which is symmetric, so that no complex numbers appear as in the usual code.
// With fewer images than features the covariance is singular; the result is exact all the same.
func Frechet(a, b Moments) (distance float64, err error) {
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		from, err := newOrigin(s, a)
		if err != nil {
			return err
		}
		distance, err = from.distance(b)
		return err
	})
	return distance, err
}

// origin is the distribution that distances are measured from, with the root of its covariance, which takes most of the time.
type origin struct {
	Moments
	root *torch.Tensor // [D, D]
}

func newOrigin(s *torch.Scope, m Moments) (o origin, err error) {
	if err := m.check("first"); err != nil {
		return o, err
	}
	o.Moments = m
	err = s.NoGrad(func(inner *torch.Scope) error {
		d := len(m.Mean)
		out, err := torch.Call(inner, "aten::linalg_eigh", symmetric(inner, torch.FromSlice(inner, m.Cov, d, d)))
		if err != nil {
			return err
		}
		values, vectors := out[0].(*torch.Tensor), out[1].(*torch.Tensor)
		o.root = vectors.Mul(inner, values.ClampMin(inner, 0).Sqrt(inner)).MatMul(inner, vectors.Transpose(inner, 0, 1)).Clone(s)
		return nil
	})
	return o, err
}

// distance returns the squared distance to another distribution.
func (o origin) distance(b Moments) (distance float64, err error) {
	if err := b.check("second"); err != nil {
		return 0, err
	}
	d := len(o.Mean)
	if len(b.Mean) != d {
		return 0, fmt.Errorf("evaluation: want moments of the same features, got %d and %d", d, len(b.Mean))
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			cb := torch.FromSlice(s, b.Cov, d, d)
			out, err := torch.Call(s, "aten::linalg_eigvalsh", symmetric(s, o.root.MatMul(s, cb).MatMul(s, o.root)))
			if err != nil {
				return err
			}
			cross := out[0].(*torch.Tensor).ClampMin(s, 0).Sqrt(s).Sum(s).Item()
			diff := torch.FromSlice(s, o.Mean).Sub(s, torch.FromSlice(s, b.Mean)).Square(s).Sum(s).Item()
			distance = max(0, diff+trace(o.Cov, d)+trace(b.Cov, d)-2*cross)
			return nil
		})
	})
	return distance, err
}

// symmetric removes what rounding has done to the symmetry of a matrix.
func symmetric(s *torch.Scope, m *torch.Tensor) *torch.Tensor {
	return m.Add(s, m.Transpose(s, 0, 1)).MulScalar(s, 0.5)
}

func trace(m []float64, d int) (sum float64) {
	for i := range d {
		sum += m[i*d+i]
	}
	return sum
}
