package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Attention is multi-head attention of tokens to tokens (Vaswani et al. 2017), by four layers, in the U-Net, the text encoders and the autoencoder
// of Stable Diffusion.
//
// Two networks compute theirs in another way. The U-Nets of package unet, which are trained, run the first three layers as one convolution
// of the image as it lies in memory, which reads their plain weights and not the packed ones that a frozen network has. DiT's checkpoints
// have a single layer in place of the three.
type Attention struct {
	Q, K, V, Out nn.Linear
	Heads        int
	Causal       bool // a token sees itself and those before it
}

// Forward lets tokens x [n, tokens, width] attend to y [n, others, from], which may be x.
func (m *Attention) Forward(s *torch.Scope, x, y *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := s.Tidy(func(s *torch.Scope) *torch.Tensor { // frees queries, keys and values
			heads := func(l nn.Linear, x *torch.Tensor) *torch.Tensor {
				h := l.Adapted(s, x, a)
				return h.Reshape(s, h.Dim(0), h.Dim(1), m.Heads, h.Dim(2)/m.Heads).Transpose(s, 1, 2)
			}
			return torch.Attention(s, heads(m.Q, x), heads(m.K, y), heads(m.V, y), torch.AttentionOptions{Causal: m.Causal})
		})
		return m.Out.Adapted(s, h.Transpose(s, 1, 2).Flatten(s, 2, 3), a)
	})
}
