package unet

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
)

// embed computes the blocks' inputs for the timesteps t. Sines and cosines are computed in float32, whatever the network's type, and then
// cast, as in diffusers.
func (e *encoder) embed(s *torch.Scope, t *torch.Tensor, dtype torch.DType, c models.Cond) inputs {
	emb := s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := e.sinusoids(s, t, e.config.BlockOutChannels[0]).To(s, dtype)
		if e.cond != nil {
			w := c.Guidance
			if w.NDim() < 2 {
				w = GuidanceEmbedding(s, w.To(s, torch.Float64).SubScalar(s, 1), e.cond.Weight.Dim(1))
			}
			h = h.Add(s, e.cond.Adapted(s, w.To(s, dtype), c.Adapters))
		}
		h = e.time.Forward(s, h, c.Adapters)
		if e.sizes != nil {
			sizes := e.sinusoids(s, c.Sizes, e.config.AdditionTimeEmbedDim).Reshape(s, c.Sizes.Dim(0), -1)
			told := torch.Cat(s, []*torch.Tensor{c.Pooled.To(s, dtype), sizes.To(s, dtype)}, 1)
			h = h.Add(s, e.sizes.Forward(s, told, c.Adapters))
		}
		return h.SiLU(s) // the first step of every residual block
	})
	return inputs{emb, c.Text, c.Adapters, c.Checkpointing}
}

// sinusoids returns the sinusoidal embedding of all elements of v, [elements, dim], in float32.
func (e *encoder) sinusoids(s *torch.Scope, v *torch.Tensor, dim int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return blocks.Sinusoids{Dim: dim, Shift: e.config.FreqShift, SinFirst: bool(e.config.SinFirst)}.Of(s, v.To(s, torch.Float32))
	})
}

// GuidanceEmbedding returns the guidance embedding of a full LCM, for w [n], the guidance scale minus 1: sines, then cosines, of 1000·w at
// frequencies 10000^(-i/(dim/2 - 1)) for i below dim/2, and a zero where dim is odd, as float32 [n, dim] (Luo et al. 2023, after Kingma et
// al. 2021). dim is the network's TimeCondProjDim. It differs from [blocks.Sinusoids] in order, frequencies and rounding.
func GuidanceEmbedding(s *torch.Scope, w *torch.Tensor, dim int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		half := dim / 2
		step := torch.Full(s, 10000, torch.Float32).Log(s).DivScalar(s, float64(half-1)) // rounded as in PyTorch
		freqs := torch.Arange(s, half, torch.Float32).Mul(s, step.Neg(s)).Exp(s)
		angles := w.To(s, torch.Float32).MulScalar(s, 1000).Reshape(s, -1, 1).Mul(s, freqs)
		h := torch.Cat(s, []*torch.Tensor{angles.Sin(s), angles.Cos(s)}, 1)
		if dim%2 == 1 {
			h = h.Pad(s, []int{0, 1}, torch.PadConstant, 0)
		}
		return h
	})
}
