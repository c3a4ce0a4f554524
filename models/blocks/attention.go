package blocks

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Attention is multi-head attention (Vaswani et al. 2017) with four linear layers, as in the U-Net, the text encoders and the autoencoder
// of Stable Diffusion.
//
// Two kinds of networks do not use it. U-Nets in pixel space, which are trained, have [SelfAttention], which runs the first three layers as one
// convolution on the image's memory layout and needs their plain weights, not the packed ones of a frozen network. DiT's checkpoints have a single layer for
// queries, keys and values.
type Attention struct {
	Q, K, V, Out nn.Linear
	Heads        int
	Causal       bool // causal mask: a token attends to itself and to earlier tokens only
}

// Forward computes attention with queries from x [n, tokens, width], and keys and values from y [n, others, from]. For self-attention y
// is x.
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
