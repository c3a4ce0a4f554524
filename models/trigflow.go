package models

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
)

// Trig converts to and from the coordinates of TrigFlow (Lu & Song 2024, section 3): points y on arcs from data to noise, and an
// angle a, from 0 at the data to π/2 at the noise, in place of the noise level.
//
//	a = arctan(σ/σ_d)        y = cos(a)·x_0 + sin(a)·σ_d·z = cos(a)·x
//
// z is standard normal here; the paper's z includes the factor σ_d. Angles are tensors [B], so that derivatives pass through them.
// Use float64 for high noise: neighbouring float32 angles near arctan(80/σ_d) are 2e-5 apart in ln σ.
type Trig struct {
	SigmaData float64 // standard deviation of the data's elements; 0: 0.5
}

// Angle returns a = arctan(σ/σ_d).
func (k Trig) Angle(s *torch.Scope, sigma *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return sigma.DivScalar(s, orHalf(k.SigmaData)).Atan(s) })
}

// Level returns σ = σ_d·tan(a). It is finite even for a = π/2, which no floating-point number represents exactly.
func (k Trig) Level(s *torch.Scope, a *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return a.Sin(s).Div(s, a.Cos(s).ClampMin(s, leastCosine)).MulScalar(s, orHalf(k.SigmaData))
	})
}

// leastCosine is below every positive cosine of a float64 angle. The cosine of float32's π/2 is negative.
const leastCosine = 1e-17

// Noisy returns y = cos(a)·x + sin(a)·σ_d·z for data x and noise z [B, ...] and angles a [B].
func (k Trig) Noisy(s *torch.Scope, x, z, a *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return x.MulPerSample(s, a.Cos(s)).Add(s, z.MulPerSample(s, a.Sin(s).MulScalar(s, orHalf(k.SigmaData))))
	})
}

// Direction returns dy/da = cos(a)·σ_d·z - sin(a)·x at the points of Noisy. Training without a teacher uses it in place of Velocity.
func (k Trig) Direction(s *torch.Scope, x, z, a *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return z.MulPerSample(s, a.Cos(s).MulScalar(s, orHalf(k.SigmaData))).Sub(s, x.MulPerSample(s, a.Sin(s)))
	})
}

// Velocity returns dy/da = (cos(a)·y - D)/sin(a) of the probability-flow ODE at y [B, ...] and angles a [B] above 0, for any
// denoiser.
func (k Trig) Velocity(s *torch.Scope, d Denoiser, y, a *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		if f, ok := d.(*TrigFlow); ok && orHalf(f.SigmaData) == orHalf(k.SigmaData) {
			return f.Velocity(s, y, a, c) // the same, without the cancellation of a difference
		}
		cos := a.Cos(s)
		x := y.MulPerSample(s, cos.ClampMin(s, leastCosine).Reciprocal(s))
		D := d.Denoise(s, x, k.Level(s, a), c)
		return y.MulPerSample(s, cos).Sub(s, D).MulPerSample(s, a.Sin(s).Reciprocal(s))
	})
}

// TrigFlow turns a TrigFlow network into a denoiser. The network takes y/σ_d and the angle, and predicts the velocity dy/da divided by
// σ_d.
//
//	D = cos(a)·y - sin(a)·σ_d·F(y/σ_d, a)
type TrigFlow struct {
	Net       Network
	SigmaData float64 // standard deviation of the data's elements; 0: 0.5
}

// Parameters yields the network's parameters.
func (f *TrigFlow) Parameters() iter.Seq2[string, *torch.Tensor] { return f.Net.Parameters() }

func (f *TrigFlow) network() Network { return f.Net }

// Coordinates returns TrigFlow's coordinates for this σ_d.
func (f *TrigFlow) Coordinates() Trig { return Trig{f.SigmaData} }

// form is EDM's but for the network's sign and label: cos(a) = σ_d/√(t² + σ_d²), sin(a) = t/√(t² + σ_d²).
func (f *TrigFlow) form(s *torch.Scope, t *torch.Tensor) form {
	k := edmForm(s, t, orHalf(f.SigmaData), QuarterLog)
	k.out, k.label = k.out.Neg(s), f.Coordinates().Angle(s, t)
	return k
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (f *TrigFlow) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, f, x, t, c)
}

// Velocity returns dy/da = σ_d·F(y/σ_d, a) at y [B, ...] and angles a [B].
func (f *TrigFlow) Velocity(s *torch.Scope, y, a *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		sd := orHalf(f.SigmaData)
		return Forward(s, f.Net, y.DivScalar(s, sd), a, c).MulScalar(s, sd)
	})
}

// Validate reports a missing network and values out of range.
func (f *TrigFlow) Validate() error {
	if err := validNetwork("trigflow", f.Net); err != nil {
		return err
	}
	return validSigmaData("trigflow", f.SigmaData)
}

// TrigConsistency turns a TrigFlow network into a consistency function whose boundary is at 0 (Lu & Song 2024, eq. 5):
//
//	f = cos(a)·y - sin(a)·σ_d·F(y/σ_d, a)
//
// The formula is TrigFlow's, but the network is trained with another objective.
type TrigConsistency struct {
	Net       Network
	SigmaData float64 // standard deviation of the data's elements; 0: 0.5
}

var _ ConsistencyFunction = (*TrigConsistency)(nil)

// Parameters yields the network's parameters.
func (f *TrigConsistency) Parameters() iter.Seq2[string, *torch.Tensor] { return f.Net.Parameters() }

// Coordinates returns TrigFlow's coordinates for this σ_d.
func (f *TrigConsistency) Coordinates() Trig { return Trig{f.SigmaData} }

// Origin returns f(x, t) for x [B, ...] at noise levels t [B]. At 0 it is x exactly.
func (f *TrigConsistency) Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, &TrigFlow{f.Net, f.SigmaData}, x, t, c)
}

// OriginAt returns f at y [B, ...] and angles a [B], TrigFlow's own coordinates.
func (f *TrigConsistency) OriginAt(s *torch.Scope, y, a *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		F := f.Forward(s, y, a, c)
		return y.MulPerSample(s, a.Cos(s)).Sub(s, F.MulPerSample(s, a.Sin(s).MulScalar(s, orHalf(f.SigmaData))))
	})
}

// Forward returns F(y/σ_d, a) itself at y [B, ...] and angles a [B]. Continuous-time training needs its derivative.
func (f *TrigConsistency) Forward(s *torch.Scope, y, a *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return Forward(s, f.Net, y.DivScalar(s, orHalf(f.SigmaData)), a, c)
	})
}

// Validate reports a missing network and values out of range.
func (f *TrigConsistency) Validate() error {
	if err := validNetwork("trigflow consistency function", f.Net); err != nil {
		return err
	}
	return validSigmaData("trigflow consistency function", f.SigmaData)
}

// TrigNetwork converts the network of any parameterisation to a TrigFlow network, exactly: TrigFlow{Net: n} is the same denoiser as
// n.Model, and TrigConsistency{Net: n} is a consistency function that starts from it. For an EDM network only the sign and the label
// change:
//
//	F_trig(y/σ_d, a) = -F_edm(c_in·x, c_noise)        y/σ_d = c_in·x
//
// Preconditioned{Model: &TrigFlow{…}} is the inverse conversion.
type TrigNetwork struct {
	Model     Parameterisation
	SigmaData float64 // 0: 0.5
}

// Parameters yields the network's parameters.
func (n *TrigNetwork) Parameters() iter.Seq2[string, *torch.Tensor] { return n.Model.Parameters() }

// Forward returns (cos(a)·y - D)/(σ_d·sin(a)) for u = y/σ_d [B, ...] and angles a [B].
func (n *TrigNetwork) Forward(s *torch.Scope, u, a *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		t := Trig{n.SigmaData}.Level(s, a.To(s, torch.Float64))
		return reframe(s, n.Model, u, t, levelType(a), orHalf(n.SigmaData), c).Neg(s)
	})
}

// Validate reports a missing model and values out of range.
func (n *TrigNetwork) Validate() error {
	if n.Model == nil {
		return errNoModel("trigflow network")
	}
	return validSigmaData("trigflow network", n.SigmaData)
}
