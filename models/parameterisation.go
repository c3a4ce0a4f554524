package models

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Parameterisation is a denoiser over a network: *EDM, *DDPM, *VP, *VE, *Flow or *TrigFlow. For noisy data x = x_0 + t·z every network
// predicts a linear combination of x and x_0, so that parameterisations differ in their coefficients only:
//
//	D(x; t) = skip(t)·x + out(t)·F(in(t)·x, label(t))
type Parameterisation interface {
	Denoiser
	Parameters() iter.Seq2[string, *torch.Tensor]
	network() Network
	form(s *torch.Scope, t *torch.Tensor) form
}

var (
	_ Parameterisation = (*EDM)(nil)
	_ Parameterisation = (*DDPM)(nil)
	_ Parameterisation = (*VP)(nil)
	_ Parameterisation = (*VE)(nil)
	_ Parameterisation = (*Flow)(nil)
	_ Parameterisation = (*TrigFlow)(nil)
)

// form holds the coefficients of a parameterisation at some noise levels, all [B], in float64 except for [EDM] and [Consistency]: at high
// and low levels they are small differences of large numbers, and they cost nothing compared with a forward pass.
type form struct{ skip, out, in, label *torch.Tensor }

// denoise computes D(x; t).
func denoise(s *torch.Scope, p Parameterisation, x, t *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("denoiser", x, t)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return p.form(s, t.To(s, torch.Float64)).apply(s, p.network(), x, levelType(t), c)
	})
}

// apply computes skip·x + out·F(in·x, label), with labels of that type.
func (k form) apply(s *torch.Scope, net Network, x *torch.Tensor, label torch.DType, c Cond) *torch.Tensor {
	F := Forward(s, net, x.MulPerSample(s, k.in), k.label.To(s, label), c)
	return x.MulPerSample(s, k.skip).Add(s, F.MulPerSample(s, k.out))
}

// levelType is the type of labels computed from levels of t's type: float32 at least.
func levelType(t *torch.Tensor) torch.DType {
	if t.DType() == torch.Float64 {
		return torch.Float64
	}
	return torch.Float32
}

// edmForm is the preconditioning of Karras et al. 2022, table 1.
func edmForm(s *torch.Scope, t *torch.Tensor, sigmaData float64, noise NoiseEmbedding) form {
	return shiftedEDM(s, t, t, sigmaData, noise)
}

// shiftedEDM is that preconditioning with shifted in place of t in c_skip and in c_out's numerator, in t's type.
func shiftedEDM(s *torch.Scope, t, shifted *torch.Tensor, sigmaData float64, noise NoiseEmbedding) form {
	variance := sigmaData * sigmaData
	root := t.Square(s).AddScalar(s, variance).Sqrt(s)
	return form{
		skip:  torch.Full(s, variance, t.DType(), 1).Div(s, shifted.Square(s).AddScalar(s, variance)), // exactly 1 where shifted is 0
		out:   shifted.MulScalar(s, sigmaData).Div(s, root),
		in:    root.Reciprocal(s),
		label: t.ClampMin(s, leastLevel).Log(s).MulScalar(s, noise.scale()),
	}
}

func (d *EDM) network() Network { return d.Net }

func (d *EDM) form(s *torch.Scope, t *torch.Tensor) form {
	return edmForm(s, t, orHalf(d.SigmaData), d.Noise)
}

// Preconditioned converts the network of any parameterisation to the F of EDM's preconditioning, exactly: EDM{Net: p} is the same
// denoiser as p.Model, and Consistency{Net: p} is a consistency function that starts from it, whatever Model's network predicts. EDM
// and Consistency need the same Noise and SigmaData as p.
type Preconditioned struct {
	Model     Parameterisation
	Noise     NoiseEmbedding // of the label that Forward takes
	SigmaData float64        // 0: 0.5
}

// Parameters yields the network's parameters.
func (p *Preconditioned) Parameters() iter.Seq2[string, *torch.Tensor] { return p.Model.Parameters() }

// Forward returns (D(x; t) - c_skip·x)/c_out for u = c_in·x [B, ...] and the label of t [B].
func (p *Preconditioned) Forward(s *torch.Scope, u, label *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		t := label.To(s, torch.Float64).DivScalar(s, p.Noise.scale()).Exp(s)
		return reframe(s, p.Model, u, t, levelType(label), orHalf(p.SigmaData), c)
	})
}

// Validate reports a missing model and values out of range.
func (p *Preconditioned) Validate() error {
	if p.Model == nil {
		return errNoModel("preconditioned network")
	}
	return validSigmaData("preconditioned network", p.SigmaData)
}

// reframe returns F of EDM's preconditioning for u = c_in·x at levels t [B], float64, from another parameterisation's network:
//
//	F = (skip - c_skip)/(c_out·c_in)·u + out/c_out·F_p(in/c_in·u, label)
func reframe(s *torch.Scope, p Parameterisation, u, t *torch.Tensor, label torch.DType, sigmaData float64, c Cond) *torch.Tensor {
	t = t.ClampMin(s, leastLevel) // at 0 c_out is 0, and F has no effect
	from, to := p.form(s, t), edmForm(s, t, sigmaData, QuarterLog)
	F := Forward(s, p.network(), u.MulPerSample(s, from.in.Div(s, to.in)), from.label.To(s, label), c)
	skip := from.skip.Sub(s, to.skip).Div(s, to.out.Mul(s, to.in))
	return u.MulPerSample(s, skip).Add(s, F.MulPerSample(s, from.out.Div(s, to.out)))
}

// orHalf is σ_d with its default.
func orHalf(sigmaData float64) float64 {
	if sigmaData == 0 {
		return 0.5
	}
	return sigmaData
}

// validSigmaData reports an invalid standard deviation of the data; 0 stands for the default.
func validSigmaData(what string, v float64) error {
	if !(v >= 0) || math.IsInf(v, 1) {
		return fmt.Errorf("%s: want a standard deviation of the data above 0, or 0 for 0.5, got %g", what, v)
	}
	return nil
}

func errNoModel(what string) error { return fmt.Errorf("%s: no model", what) }

// validNetwork reports a network that is missing.
func validNetwork(what string, net Network) error {
	if net == nil {
		return fmt.Errorf("%s: no network", what)
	}
	return nil
}
