package models

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Latent is the consistency function of latent consistency models (Luo et al. 2023, section 4.1): the x_0 prediction of a network that
// was trained on a discrete chain (to predict ε, v or x_0), with a boundary condition in timesteps. In the chain's own coordinates,
// y = √ᾱ·x, it is
//
//	f(y, n) = c_skip·y + c_out·x̂_0(y, n)        c_skip = σ_d²/((κ·n)² + σ_d²)        c_out = κ·n/√((κ·n)² + σ_d²)
//
// with σ_d = 1/2 and the timestep scaling κ. c_out lacks the factor σ_d of Song et al. 2023, because the published models were trained
// without it. At timestep 0 f is y itself, which in σ coordinates is √ᾱ_0·x and not x: 0.9996·x for Stable Diffusion. At all other
// timesteps it is very nearly x̂_0: at timestep 1 c_skip is 0.0025.
type Latent struct {
	Model *DDPM
	// Scaling is κ, the factor of the timestep in the boundary condition (timestep_scaling of diffusers); 0: 10.
	Scaling float64
}

var _ ConsistencyFunction = (*Latent)(nil)

// LatentScalings returns c_skip and c_out of [Latent] at the timesteps steps [B]. They are computed in the type of steps, a
// floating-point type.
func LatentScalings(s *torch.Scope, steps *torch.Tensor, scaling float64) (skip, out *torch.Tensor) {
	const variance = 0.25 // σ_d²
	v := steps.MulScalar(s, scaling)
	d := v.Square(s).AddScalar(s, variance)
	return torch.Full(s, variance, steps.DType(), 1).Div(s, d), v.Div(s, d.Sqrt(s))
}

// Parameters yields the network's parameters.
func (f *Latent) Parameters() iter.Seq2[string, *torch.Tensor] { return f.Model.Parameters() }

// SigmaMinimum returns the chain's smallest noise level, that of timestep 0.
func (f *Latent) SigmaMinimum() float64 { return f.Model.Process().Sigma(0) }

// SigmaMaximum returns the chain's largest noise level, that of its last timestep.
func (f *Latent) SigmaMaximum() float64 {
	chain := f.Model.Process()
	return chain.Sigma(chain.Steps() - 1)
}

// Origin returns f for x [B, ...] at noise levels t [B]. Between the chain's levels the timestep is fractional, as in [DDPM].
func (f *Latent) Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("model", x, t)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		k := f.Model.form(s, t.To(s, torch.Float64))
		return f.apply(s, k, x.MulPerSample(s, k.in), levelType(t), c)
	})
}

// Forward returns f(y, n) for y [B, ...] at the given timesteps, in the chain's own coordinates, for training. At timestep 0 it is y to
// the bit.
func (f *Latent) Forward(s *torch.Scope, y *torch.Tensor, steps []int, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		_, k := f.Model.at(s, y, steps)
		return f.apply(s, k, y, levelType(y), c)
	})
}

// apply returns f for y, with the network's coefficients k and labels of that type.
func (f *Latent) apply(s *torch.Scope, k form, y *torch.Tensor, label torch.DType, c Cond) *torch.Tensor {
	scaling := f.Scaling
	if scaling == 0 {
		scaling = 10
	}
	skip, out := LatentScalings(s, k.label, scaling)
	F := Forward(s, f.Model.Net, y, k.label.To(s, label), c)
	own := skip.Add(s, out.Mul(s, k.skip.Div(s, k.in)))
	return y.MulPerSample(s, own).Add(s, F.MulPerSample(s, out.Mul(s, k.out)))
}

// Validate reports a missing model and values out of range.
func (f *Latent) Validate() error {
	if f.Model == nil {
		return errNoModel("latent consistency function")
	}
	if !(f.Scaling >= 0) || math.IsInf(f.Scaling, 1) {
		return fmt.Errorf("latent consistency function: want a timestep scaling above 0, or 0 for 10, got %g", f.Scaling)
	}
	return f.Model.Validate()
}
