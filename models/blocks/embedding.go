package blocks

import (
	"math"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Sinusoids are the cosines and sines of numbers, such as timesteps, at geometric frequencies (Vaswani et al. 2017; Ho et al. 2020), as
// diffusers has them: 10000^(-i/(Dim/2 - Shift)) for i below Dim/2, in that order. Not all embeddings are these: guidance in latent
// consistency models has frequencies that are rounded in another way, random Fourier features have random ones, and the perceptron of
// package mlp powers of 2.
type Sinusoids struct {
	Dim      int // of the result, even
	Shift    int // 1: the lowest frequency is 1/10000; 0: a little more
	SinFirst bool
}

// Of returns the cosines, then the sines of all elements of v, or the other way round with SinFirst, [elements, Dim], in v's type. They are
// computed where v is and rounded as PyTorch's implementations round them: at timesteps near 1000 the last bit shows, so that v has to be in
// float32 at least for networks in half precision.
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

// TimestepEmbedding is two linear layers with SiLU between them, which make a vector of the [Sinusoids] of a timestep or another number.
type TimestepEmbedding struct{ Linear1, Linear2 nn.Linear }

// NewTimestepEmbedding makes the layers, with PyTorch's initial values, as linear_1 and linear_2.
func NewTimestepEmbedding(p nn.Path, in, width int) *TimestepEmbedding {
	return &TimestepEmbedding{nn.NewLinear(p.Sub("linear_1"), in, width), nn.NewLinear(p.Sub("linear_2"), width, width)}
}

// Forward maps x [n, in] to [n, width].
func (e *TimestepEmbedding) Forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := SiLU(s, e.Linear1.Adapted(s, x, a))
		return Release(e.Linear2.Adapted(s, h, a), h)
	})
}
