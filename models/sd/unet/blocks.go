package unet

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

func (b block) forward(s *torch.Scope, x *torch.Tensor, in inputs) *torch.Tensor {
	return b.attend(s, b.residual(s, x, in), in)
}

func (b block) residual(s *torch.Scope, x *torch.Tensor, in inputs) *torch.Tensor {
	return b.res.Forward(s, x, in.emb, models.Cond{Adapters: in.adapters})
}

// attend applies the transformer after the residual block, if there is one. It frees h unless it returns it.
func (b block) attend(s *torch.Scope, h *torch.Tensor, in inputs) *torch.Tensor {
	if b.attn == nil {
		return h
	}
	return blocks.Release(b.attn.forward(s, h, in), h)
}

func newResidual(p nn.Path, c Encoder, in, out, width int) *blocks.Residual {
	return blocks.NewResidual(p, in, out, blocks.ResidualOptions{GroupsIn: c.NormNumGroups, GroupsOut: c.NormNumGroups, Eps: c.NormEps, Embedding: width})
}

// layer is a linear layer or a convolution.
type layer interface {
	Adapted(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor
}

// transformer is a residual stack of self- and cross-attention blocks between two projections.
type transformer struct {
	norm    nn.GroupNorm
	in, out layer
	linear  bool // in and out are linear layers; else 1×1 convolutions
	blocks  []transformerBlock
}

const transformerNormEps = 1e-6 // of the norm before proj_in, in all of diffusers' networks

func newTransformer(p nn.Path, c Encoder, level, depth int) *transformer {
	ch := c.BlockOutChannels[level]
	t := &transformer{linear: c.UseLinearProjection}
	t.norm = nn.NewGroupNorm(p.Sub("norm"), c.NormNumGroups, ch, transformerNormEps)
	if t.linear {
		t.in, t.out = nn.NewLinear(p.Sub("proj_in"), ch, ch), nn.NewLinear(p.Sub("proj_out"), ch, ch)
	} else {
		t.in, t.out = blocks.NewConv(p.Sub("proj_in"), ch, ch, 1), blocks.NewConv(p.Sub("proj_out"), ch, ch, 1)
	}
	for k := range depth {
		b := newTransformerBlock(p.Sub("transformer_blocks", k), ch, c.CrossAttentionDim[0], c.AttentionHeadDim.at(level))
		t.blocks = append(t.blocks, b)
	}
	return t
}

// forward maps features [n, channels, h, w] to the same shape. Tokens are pixels in row-major order.
func (t *transformer) forward(s *torch.Scope, x *torch.Tensor, in inputs) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := x.Shape()
		n, c, height, width := shape[0], shape[1], shape[2], shape[3]
		tokens := func(h *torch.Tensor) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				return blocks.Release(h.Permute(s, 0, 2, 3, 1).Reshape(s, n, height*width, c), h)
			})
		}
		image := func(h *torch.Tensor) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				return blocks.Release(h.Reshape(s, n, height, width, c).Permute(s, 0, 3, 1, 2), h)
			})
		}
		h := t.norm.Adapted(s, x, in.adapters)
		if t.linear {
			h = tokens(h)
			h = blocks.Release(t.in.Adapted(s, h, in.adapters), h)
		} else {
			h = tokens(blocks.Release(t.in.Adapted(s, h, in.adapters), h))
		}
		for _, b := range t.blocks {
			h = blocks.Release(b.forward(s, h, in), h)
		}
		if t.linear {
			h = image(blocks.Release(t.out.Adapted(s, h, in.adapters), h))
		} else {
			h = image(h)
			h = blocks.Release(t.out.Adapted(s, h, in.adapters), h)
		}
		return x.Add(s, h) // in x's memory format
	})
}

// transformerBlock is x + attention(norm(x)), once as self-attention and once as cross-attention to the text, then x + mlp(norm(x)).
type transformerBlock struct {
	norm1, norm2, norm3 nn.LayerNorm
	self, cross         blocks.Attention
	gated               nn.Linear // values and gates of the MLP (GEGLU: Shazeer 2020)
	out                 nn.Linear
}

const blockNormEps = 1e-5

func newTransformerBlock(p nn.Path, width, text, heads int) transformerBlock {
	return transformerBlock{
		norm1: nn.NewLayerNorm(p.Sub("norm1"), width, blockNormEps),
		self:  newAttention(p.Sub("attn1"), width, width, heads),
		norm2: nn.NewLayerNorm(p.Sub("norm2"), width, blockNormEps),
		cross: newAttention(p.Sub("attn2"), width, text, heads),
		norm3: nn.NewLayerNorm(p.Sub("norm3"), width, blockNormEps),
		gated: nn.NewLinear(p.Sub("ff", "net", 0, "proj"), width, 8*width),
		out:   nn.NewLinear(p.Sub("ff", "net", 2), 4*width, width),
	}
}

// forward maps x [n, tokens, width] to the same shape. Sums are computed in place in a linear layer's output, which autograd has not saved.
func (b transformerBlock) forward(s *torch.Scope, x *torch.Tensor, in inputs) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := b.norm1.Adapted(s, x, in.adapters)
		h = blocks.Release(b.self.Forward(s, h, h, in.adapters), h)
		h.AddInPlace(s, x)
		x = h
		h = b.norm2.Adapted(s, x, in.adapters)
		h = blocks.Release(b.cross.Forward(s, h, in.text, in.adapters), h)
		h.AddInPlace(s, x)
		x.Free()
		x = h
		h = b.norm3.Adapted(s, x, in.adapters)
		h = blocks.Release(b.mlp(s, h, in.adapters), h)
		h.AddInPlace(s, x)
		return h
	})
}

func (b transformerBlock) mlp(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		both := b.gated.Adapted(s, x, a)
		parts := both.Chunk(s, 2, -1)
		h := parts[1].GELU(s, false)
		if s.GradEnabled() {
			h = parts[0].Mul(s, h)
		} else {
			h.MulInPlace(s, parts[0])
		}
		for _, t := range []*torch.Tensor{both, parts[0], parts[1]} {
			t.Free()
		}
		return b.out.Adapted(s, h, a)
	})
}

func newAttention(p nn.Path, width, from, heads int) blocks.Attention {
	linear := func(name string, in int) nn.Linear {
		return nn.NewLinearInit(p.Sub(name), in, width, nn.FanIn(in), nil)
	}
	out := nn.NewLinear(p.Sub("to_out", 0), width, width)
	return blocks.Attention{Q: linear("to_q", width), K: linear("to_k", from), V: linear("to_v", from), Out: out, Heads: heads}
}
