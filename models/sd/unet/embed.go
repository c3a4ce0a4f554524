package unet

import (
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// embedder is two linear layers with SiLU between them.
type embedder struct{ linear1, linear2 nn.Linear }

func newEmbedder(p nn.Path, in, width int) embedder {
	return embedder{nn.NewLinear(p.Sub("linear_1"), in, width), nn.NewLinear(p.Sub("linear_2"), width, width)}
}

func (e embedder) forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return e.linear2.Adapted(s, e.linear1.Adapted(s, x, a).SiLU(s), a)
}

// embed makes the blocks' inputs for the timesteps t. Sines and cosines are computed in float32, whatever the network's
// type, and then cast, as in diffusers.
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
		h = e.time.forward(s, h, c.Adapters)
		if e.sizes != nil {
			sizes := e.sinusoids(s, c.Sizes, e.config.AdditionTimeEmbedDim).Reshape(s, c.Sizes.Dim(0), -1)
			told := torch.Cat(s, []*torch.Tensor{c.Pooled.To(s, dtype), sizes.To(s, dtype)}, 1)
			h = h.Add(s, e.sizes.forward(s, told, c.Adapters))
		}
		return h.SiLU(s) // which every residual block starts with
	})
	return inputs{emb, c.Text, c.Adapters}
}

// sinusoids returns the cosines and then the sines of all elements of v at frequencies 10000^(-i/(dim/2 - FreqShift)), for i
// below dim/2, [elements, dim], in float32. They are rounded as diffusers rounds them: at timesteps near 1000 the last bit
// shows.
func (e *encoder) sinusoids(s *torch.Scope, v *torch.Tensor, dim int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		half := dim / 2
		logs := torch.Arange(s, half, torch.Float32).MulScalar(s, -math.Log(10000))
		freqs := logs.DivScalar(s, float64(half-e.config.FreqShift)).Exp(s)
		angles := v.To(s, torch.Float32).Reshape(s, -1, 1).Mul(s, freqs)
		parts := []*torch.Tensor{angles.Cos(s), angles.Sin(s)}
		if e.config.SinFirst {
			parts[0], parts[1] = parts[1], parts[0]
		}
		return torch.Cat(s, parts, 1)
	})
}

// GuidanceEmbedding returns what a full LCM is told of the guidance w [n], the guidance scale less 1: sines, then cosines,
// of 1000·w at frequencies 10000^(-i/(dim/2 - 1)) for i below dim/2, and a zero where dim is odd, as float32 [n, dim] (Luo
// et al. 2023, after Kingma et al. 2021). dim is the network's TimeCondProjDim. It differs from a timestep's embedding in
// order and frequencies.
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
