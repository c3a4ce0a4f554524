package edit

import (
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Slerp returns the spherical interpolation of two noises z1 and z2 [1, ...] at the fractions a, from 0 at z1 to 1 at z2, as [len(a), ...]:
//
//	z = sin((1-a)·ψ)/sin(ψ)·z1 + sin(a·ψ)/sin(ψ)·z2        ψ = arccos(z1·z2/(‖z1‖·‖z2‖))
//
// Between independent standard normal z1 and z2 the results are standard normal, too, which they are not on a straight line. Parallel noises are
// interpolated linearly. At 0 and 1 the results are z1 and z2 to the bit. The angle is computed in float64.
func Slerp(s *torch.Scope, z1, z2 *torch.Tensor, a ...float64) (out *torch.Tensor, err error) {
	if !slices.Equal(z1.Shape(), z2.Shape()) || z1.NDim() == 0 || z1.Dim(0) != 1 || len(a) == 0 {
		return nil, fmt.Errorf("edit: interpolation: want two noises [1, ...] of the same shape and at least one fraction, got shapes %v and %v and %d", z1.Shape(), z2.Shape(), len(a))
	}
	err = torch.Catch(func() {
		out = s.Tidy(func(s *torch.Scope) *torch.Tensor {
			x, y := z1.To(s, torch.Float64), z2.To(s, torch.Float64)
			dot := func(x, y *torch.Tensor) float64 { return x.Mul(s, y).Sum(s).Item() }
			cos := dot(x, y) / math.Sqrt(dot(x, x)*dot(y, y))
			psi := math.Acos(min(max(cos, -1), 1))
			all := make([]*torch.Tensor, len(a))
			for i, f := range a {
				of1, of2 := 1-f, f
				if sin := math.Sin(psi); f != 0 && f != 1 && sin > 1e-6 {
					of1, of2 = math.Sin((1-f)*psi)/sin, math.Sin(f*psi)/sin
				}
				all[i] = x.MulScalar(s, of1).Add(s, y.MulScalar(s, of2))
			}
			return torch.Cat(s, all, 0).To(s, z1.DType())
		})
	})
	return out, err
}
