package models

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// vpForm is the form of a variance-preserving network in σ coordinates, where √ᾱ = 1/√(1+t²):
//
//	ε: D = x - t·F        v: D = x/(1+t²) - t/√(1+t²)·F        x_0: D = F
func vpForm(s *torch.Scope, p noise.Prediction, t, label *torch.Tensor) form {
	variance := t.Square(s).AddScalar(s, 1)
	k := form{in: variance.Rsqrt(s), label: label}
	switch p {
	case noise.Epsilon:
		k.skip, k.out = torch.Ones(s, torch.Float64, 1), t.Neg(s)
	case noise.Velocity:
		k.skip, k.out = variance.Reciprocal(s), t.Mul(s, k.in).Neg(s)
	case noise.Sample:
		k.skip, k.out = torch.Zeros(s, torch.Float64, 1), torch.Ones(s, torch.Float64, 1)
	default:
		panic(&torch.Error{Op: "denoise", Msg: p.Validate("variance-preserving network").Error()})
	}
	return k
}

// DDPM turns a network that was trained on a discrete chain into a denoiser. Between the chain's noise levels the network gets a
// fractional timestep, interpolated linearly in ln σ as in diffusers' samplers over σ. Levels beyond the chain's ends are clamped.
type DDPM struct {
	Net     Network
	Chain   *noise.Chain // nil: noise.Default(), 1000 steps
	Predict noise.Prediction
	// Nearest rounds the timestep to the nearest integer, for networks that were trained on integer timesteps only.
	Nearest bool
	// LearnedVariance is for networks with twice as many output channels (Nichol & Dhariwal 2021): the second half is the variance of
	// ancestral sampling, which a denoiser does not use.
	LearnedVariance bool
}

// Parameters yields the network's parameters.
func (d *DDPM) Parameters() iter.Seq2[string, *torch.Tensor] { return d.Net.Parameters() }

func (d *DDPM) network() Network {
	if d.LearnedVariance {
		return meanOf{d.Net}
	}
	return d.Net
}

// meanOf is a network without its second half of output channels.
type meanOf struct{ Network }

func (m meanOf) Forward(s *torch.Scope, x, label *torch.Tensor, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := Forward(s, m.Network, x, label, c)
		if y.NDim() < 2 || y.Dim(1) != 2*x.Dim(1) {
			panic(&torch.Error{Op: "denoise", Msg: fmt.Sprintf("want a network with a learned variance, of %d output channels for images of shape %v, got shape %v", 2*x.Dim(1), x.Shape(), y.Shape())})
		}
		return y.Narrow(s, 1, 0, x.Dim(1))
	})
}

// Process returns the chain, with its default.
func (d *DDPM) Process() *noise.Chain {
	if d.Chain == nil {
		return noise.Default()
	}
	return d.Chain
}

func (d *DDPM) form(s *torch.Scope, t *torch.Tensor) form {
	return vpForm(s, d.Predict, t, d.Process().Index(s, t, d.Nearest))
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (d *DDPM) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, d, x, t, c)
}

// Forward returns the network's prediction at y [B, ...], in the chain's own coordinates, for training.
func (d *DDPM) Forward(s *torch.Scope, y *torch.Tensor, steps []int, c Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		labels := make([]float64, len(steps))
		for i, step := range steps {
			labels[i] = float64(step)
		}
		return Forward(s, d.network(), y, torch.FromSlice(s, labels).To(s, levelType(y)), c)
	})
}

// at returns the noise levels of timesteps, one for each sample of y, and the coefficients at them, without interpolation.
func (d *DDPM) at(s *torch.Scope, y *torch.Tensor, steps []int) (sigma *torch.Tensor, k form) {
	signal, noise := d.Process().Signal(s, y, steps)
	labels := make([]float64, len(steps))
	for i, step := range steps {
		labels[i] = float64(step)
	}
	sigma = noise.Div(s, signal)
	return sigma, vpForm(s, d.Predict, sigma, torch.FromSlice(s, labels))
}

// Parts returns the x_0 and the ε that the network's prediction F at y [B, ...] and the given timesteps stands for, with
// y = √ᾱ·x_0 + √(1-ᾱ)·ε: one of the two is F itself, or both follow from v.
func (d *DDPM) Parts(s *torch.Scope, y, F *torch.Tensor, steps []int) (x0, eps *torch.Tensor) {
	sum := func(a, b *torch.Tensor) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor { return y.MulPerSample(s, a).Add(s, F.MulPerSample(s, b)) })
	}
	// In σ coordinates y is in·x, x_0 is skip·x + out·F, and ε is (x - x_0)/σ.
	sigma, k := d.at(s, y, steps)
	x0 = sum(k.skip.Div(s, k.in), k.out)
	eps = sum(k.skip.Neg(s).AddScalar(s, 1).Div(s, k.in.Mul(s, sigma)), k.out.Neg(s).Div(s, sigma))
	return x0, eps
}

// Target returns the training target for data x and noise z [B, ...] at the given timesteps: z, v or x.
func (d *DDPM) Target(s *torch.Scope, x, z *torch.Tensor, steps []int) *torch.Tensor {
	switch d.Predict {
	case noise.Epsilon:
		return z
	case noise.Sample:
		return x
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		a, b := d.Process().Signal(s, x, steps)
		return z.MulPerSample(s, a).Sub(s, x.MulPerSample(s, b))
	})
}

// Validate reports a missing network and values out of range.
func (d *DDPM) Validate() error {
	if err := validNetwork("ddpm", d.Net); err != nil {
		return err
	}
	return d.Predict.Validate("ddpm")
}

// VP turns a network that was trained on the continuous variance-preserving process (Song et al. 2021, eq. 33) into a denoiser. The
// process and the noise label are those of Karras et al. 2022, table 1:
//
//	σ(τ) = √(e^(β_d·τ²/2 + β_min·τ) - 1)        label = Scale·τ
type VP struct {
	Net            Network
	Predict        noise.Prediction
	BetaD, BetaMin float64 // both 0: 19.9 and 0.1
	Scale          float64 // the label at τ = 1; 0: 999
}

func (d *VP) process() noise.VP { return noise.VP{BetaD: d.BetaD, BetaMin: d.BetaMin} }

// Parameters yields the network's parameters.
func (d *VP) Parameters() iter.Seq2[string, *torch.Tensor] { return d.Net.Parameters() }

func (d *VP) network() Network { return d.Net }

// Sigma returns the noise level at time τ, from 0 to 1.
func (d *VP) Sigma(tau float64) float64 {
	return d.process().Sigma(tau)
}

func (d *VP) form(s *torch.Scope, t *torch.Tensor) form {
	betaD, betaMin := d.process().Constants()
	// The root of β_d·τ²/2 + β_min·τ = h, without a difference.
	h := t.Square(s).Log1p(s)
	root := h.MulScalar(s, 2*betaD).AddScalar(s, betaMin*betaMin).Sqrt(s)
	tau := h.MulScalar(s, 2).Div(s, root.AddScalar(s, betaMin))
	last := d.Scale
	if last == 0 {
		last = 999
	}
	return vpForm(s, d.Predict, t, tau.MulScalar(s, last))
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (d *VP) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, d, x, t, c)
}

// Validate reports a missing network and values out of range.
func (d *VP) Validate() error {
	if err := validNetwork("vp", d.Net); err != nil {
		return err
	}
	if betaD, betaMin := d.process().Constants(); !(betaD >= 0 && betaMin > 0) || math.IsInf(betaD+betaMin, 1) {
		return fmt.Errorf("vp: want BetaD of at least 0 and BetaMin above 0, got %g and %g", betaD, betaMin)
	}
	if !(d.Scale >= 0) || math.IsInf(d.Scale, 1) {
		return fmt.Errorf("vp: want a time scale above 0, or 0 for 999, got %g", d.Scale)
	}
	return d.Predict.Validate("vp")
}
