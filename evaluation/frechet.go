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
	if err := a.check("first"); err != nil {
		return 0, err
	}
	if err := b.check("second"); err != nil {
		return 0, err
	}
	d := len(a.Mean)
	if len(b.Mean) != d {
		return 0, fmt.Errorf("evaluation: want moments of the same features, got %d and %d", d, len(b.Mean))
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			ca, cb := torch.FromSlice(s, a.Cov, d, d), torch.FromSlice(s, b.Cov, d, d)
			values, vectors, err := eigh(s, ca)
			if err != nil {
				return err
			}
			root := vectors.Mul(s, values.ClampMin(s, 0).Sqrt(s)).MatMul(s, vectors.Transpose(s, 0, 1))
			values, _, err = eigh(s, root.MatMul(s, cb).MatMul(s, root))
			if err != nil {
				return err
			}
			cross := values.ClampMin(s, 0).Sqrt(s).Sum(s).Item()
			diff := torch.FromSlice(s, a.Mean).Sub(s, torch.FromSlice(s, b.Mean)).Square(s).Sum(s).Item()
			distance = max(0, diff+trace(a.Cov, d)+trace(b.Cov, d)-2*cross)
			return nil
		})
	})
	return distance, err
}

// eigh returns the eigenvalues [D] and eigenvectors [D, D], in columns, of a symmetric matrix, of which rounding may have spoilt the symmetry.
func eigh(s *torch.Scope, m *torch.Tensor) (values, vectors *torch.Tensor, err error) {
	out, err := torch.Call(s, "aten::linalg_eigh", m.Add(s, m.Transpose(s, 0, 1)).MulScalar(s, 0.5))
	if err != nil {
		return nil, nil, err
	}
	return out[0].(*torch.Tensor), out[1].(*torch.Tensor), nil
}

func trace(m []float64, d int) (sum float64) {
	for i := range d {
		sum += m[i*d+i]
	}
	return sum
}
