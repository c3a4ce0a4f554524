package blocks

import (
	"math"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Sinusoids is the sinusoidal embedding of timesteps or other numbers (Vaswani et al. 2017; Ho et al. 2020), as in diffusers: the cosines
// and sines at the frequencies 10000^(-i/(Dim/2 - Shift)) for i below Dim/2, in that order. Some embeddings are not computed by it: the
// guidance embedding of latent consistency models rounds its frequencies differently, random features are [Fourier]'s, and
// package mlp uses powers of 2.
type Sinusoids struct {
	Dim      int // size of an embedding, even
	Shift    int // downscale_freq_shift of diffusers; 1: the lowest frequency is 1/10000; 0: slightly higher
	SinFirst bool
}

// Of returns the embeddings of all elements of v, [elements, Dim], in v's type: cosines, then sines, or sines first with SinFirst. They are
// computed on v's device and rounded as in PyTorch's implementations. At timesteps near 1000 the last bit matters, so that v has to be
// float32 at least, even for networks in half precision.
func (e Sinusoids) Of(s *torch.Scope, v *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		half := e.Dim / 2
		freqs := torch.Arange(s, half, v.DType()).MulScalar(s, -math.Log(10000)).DivScalar(s, float64(half-e.Shift)).Exp(s)
		angles := v.Reshape(s, -1, 1).Mul(s, freqs)
		parts := []*torch.Tensor{angles.Cos(s), angles.Sin(s)}
		if e.SinFirst {
			parts[0], parts[1] = parts[1], parts[0]
		}
		return torch.Cat(s, parts, 1)
	})
}

// Fourier returns the random Fourier features (Song et al. 2021) of v [n] at the frequencies freqs [k], in turns per unit: their sines, then
// their cosines, [n, 2k], in v's type.
func Fourier(s *torch.Scope, v, freqs *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		angles := v.Unsqueeze(s, 1).Mul(s, freqs.To(s, v.DType())).MulScalar(s, 2*math.Pi)
		return torch.Cat(s, []*torch.Tensor{angles.Sin(s), angles.Cos(s)}, 1)
	})
}

// TimestepEmbedding is an MLP on the [Sinusoids] of a timestep or another number: two linear layers with SiLU between them.
type TimestepEmbedding struct{ Linear1, Linear2 nn.Linear }

// NewTimestepEmbedding makes the layers linear_1 and linear_2, with PyTorch's initialisation.
func NewTimestepEmbedding(p nn.Path, in, width int) *TimestepEmbedding {
	return &TimestepEmbedding{nn.NewLinear(p.Sub("linear_1"), in, width), nn.NewLinear(p.Sub("linear_2"), width, width)}
}

// NewIgnoredEmbedding is NewTimestepEmbedding with the last layer zero, so that a new network ignores what is embedded.
func NewIgnoredEmbedding(p nn.Path, in, width int) *TimestepEmbedding {
	return &TimestepEmbedding{nn.NewLinear(p.Sub("linear_1"), in, width), nn.NewLinearInit(p.Sub("linear_2"), width, width, nn.Zeros, nn.Zeros)}
}

// Forward maps x [n, in] to [n, width].
func (e *TimestepEmbedding) Forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := SiLU(s, e.Linear1.Adapted(s, x, a))
		return Release(e.Linear2.Adapted(s, h, a), h)
	})
}
