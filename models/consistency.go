package models

import (
	"iter"

	"github.com/onestep-go/onestep/internal/enum"
	"github.com/onestep-go/onestep/torch"
)

// Boundary is the noise level at which a consistency function is the identity.
type Boundary int

const (
	// AtSigmaMin makes f(x, SigmaMin) = x, exactly (Song et al. 2023, appendix C):
	//
	//	c_skip = σ_d²/((t-ε)² + σ_d²)        c_out = σ_d·(t-ε)/√(t² + σ_d²)
	//
	// The root has t, not t-ε.
	AtSigmaMin Boundary = iota
	// AtZero makes c_skip(0) = 1 and c_out(0) = 0, as in a denoiser (Karras et al. 2022, table 1):
	//
	//	c_skip = σ_d²/(t² + σ_d²)            c_out = σ_d·t/√(t² + σ_d²)
	AtZero
)

var boundaries = enum.Names[Boundary]{What: "boundary", Words: []string{"sigma_min", "zero"}}

// MarshalText returns "sigma_min" or "zero".
func (b Boundary) MarshalText() ([]byte, error) { return boundaries.Text(b) }

// UnmarshalText is the reverse of MarshalText.
func (b *Boundary) UnmarshalText(text []byte) error { return boundaries.Parse(text, b) }

// NoiseEmbedding is the noise label c_noise, the form in which a network takes the noise level.
type NoiseEmbedding int

const (
	// QuarterLog is ln(t)/4 (Karras et al. 2022).
	QuarterLog NoiseEmbedding = iota
	// ScaledLog is 250·ln(t), as in the consistency models that OpenAI released.
	ScaledLog
)

var noiseEmbeddings = enum.Names[NoiseEmbedding]{What: "noise", Words: []string{"ln(t)/4", "250 ln(t)"}}

// MarshalText returns "ln(t)/4" or "250 ln(t)".
func (n NoiseEmbedding) MarshalText() ([]byte, error) { return noiseEmbeddings.Text(n) }

// UnmarshalText is the reverse of MarshalText.
func (n *NoiseEmbedding) UnmarshalText(text []byte) error { return noiseEmbeddings.Parse(text, n) }

// scale is the factor of ln(t) in the label.
func (n NoiseEmbedding) scale() float64 {
	if n == ScaledLog {
		return 250
	}
	return 0.25
}

// Consistency turns a network into a consistency function:
//
//	f(x, t) = c_skip(t)·x + c_out(t)·F(c_in(t)·x, c_noise(t))        c_in = 1/√(t² + σ_d²)
type Consistency struct {
	Net       Network
	Boundary  Boundary
	Noise     NoiseEmbedding
	SigmaData float64 // standard deviation of the data's elements; 0: 0.5
	SigmaMin  float64 // the smallest noise level ε; 0: 0.002
}

// SigmaMinimum returns ε, with its default.
func (f *Consistency) SigmaMinimum() float64 {
	if f.SigmaMin == 0 {
		return 0.002
	}
	return f.SigmaMin
}

// ZeroBoundary reports whether the function is the identity at noise level 0.
func (f *Consistency) ZeroBoundary() bool { return f.Boundary == AtZero }

// Parameters yields the network's parameters.
func (f *Consistency) Parameters() iter.Seq2[string, *torch.Tensor] { return f.Net.Parameters() }

// Origin returns f(x, t) for x [B, ...] at noise levels t [B]. The levels may have another floating-point type than x;
// coefficients are computed in that type, in float32 at least. At the boundary f(x, t) is x exactly: for AtSigmaMin at t = ε,
// rounded to t's type, for AtZero at t = 0.
func (f *Consistency) Origin(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	eps := 0.0
	if f.Boundary == AtSigmaMin {
		eps = f.SigmaMinimum()
	}
	return precondition(s, f.Net, x, t, c, orHalf(f.SigmaData), eps, f.Noise)
}

// leastLevel keeps the logarithm of a noise level finite at 0, where the network's output has the factor 0.
const leastLevel = 1e-30

// precondition computes c_skip·x + c_out·F(c_in·x, c_noise) with t-eps in place of t in c_skip and in c_out's numerator, with coefficients in
// t's type, in float32 at least.
func precondition(s *torch.Scope, net Network, x, t *torch.Tensor, c Cond, sigmaData, eps float64, noise NoiseEmbedding) *torch.Tensor {
	checkLevels("model", x, t)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		// ε is rounded as t was, so that t - ε is 0 at the boundary whatever t's type.
		at := t.To(s, levelType(t))
		shifted := at
		if eps != 0 {
			shifted = at.Sub(s, torch.Full(s, eps, t.DType(), 1).To(s, at.DType()))
		}
		return shiftedEDM(s, at, shifted, sigmaData, noise).apply(s, net, x, at.DType(), c)
	})
}

// EDM turns a network into a denoiser with the preconditioning of Karras et al. 2022, table 1.
type EDM struct {
	Net       Network
	Noise     NoiseEmbedding
	SigmaData float64 // standard deviation of the data's elements; 0: 0.5
}

// Parameters yields the network's parameters.
func (d *EDM) Parameters() iter.Seq2[string, *torch.Tensor] { return d.Net.Parameters() }

// DataVariance returns σ_d², with its default.
func (d *EDM) DataVariance() float64 { return orHalf(d.SigmaData) * orHalf(d.SigmaData) }

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (d *EDM) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return precondition(s, d.Net, x, t, c, orHalf(d.SigmaData), 0, d.Noise)
}
