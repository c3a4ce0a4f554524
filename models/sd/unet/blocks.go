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
	return in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor { return b.resolve(s, x[0], x[1], in) }, x, in.emb)
}

// join is residual of h and the skip connection, concatenated, to which more, a ControlNet's residual, may be added; nil: none. It frees h
// and skip.
func (b block) join(s *torch.Scope, h, skip, more *torch.Tensor, in inputs) *torch.Tensor {
	x := []*torch.Tensor{in.emb, h, skip}
	if more != nil {
		x = append(x, more)
	}
	// Without gradients, h and skip are freed as early as possible.
	own := !s.GradEnabled()
	y := in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
		both := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			skip := x[2]
			if len(x) > 3 {
				skip = skip.Add(s, x[3])
			}
			return torch.Cat(s, []*torch.Tensor{x[1], skip}, 1)
		})
		if own {
			h.Free()
			skip.Free()
		}
		return blocks.Release(b.resolve(s, both, x[0], in), both)
	}, x...)
	h.Free()
	skip.Free()
	return y
}

func (b block) resolve(s *torch.Scope, x, emb *torch.Tensor, in inputs) *torch.Tensor {
	return b.res.Forward(s, x, emb, models.Cond{Adapters: in.adapters})
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
	if len(t.blocks) == 1 {
		return in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
			h := t.enter(s, x[0], in.adapters)
			h = blocks.Release(t.blocks[0].forward(s, h, x[1], in.adapters), h)
			return blocks.Release(t.leave(s, x[0], h, in.adapters), h)
		}, x, in.text)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor { return t.enter(s, x[0], in.adapters) }, x)
		for _, b := range t.blocks {
			h = blocks.Release(in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
				return b.forward(s, x[0], x[1], in.adapters)
			}, h, in.text), h)
		}
		return in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor { return t.leave(s, x[0], x[1], in.adapters) }, x, h)
	})
}

// enter returns the tokens [n, h·w, channels] of features x.
func (t *transformer) enter(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := x.Shape()
		n, c, height, width := shape[0], shape[1], shape[2], shape[3]
		tokens := func(h *torch.Tensor) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor {
				return blocks.Release(h.Permute(s, 0, 2, 3, 1).Reshape(s, n, height*width, c), h)
			})
		}
		h := t.norm.Adapted(s, x, a)
		if t.linear {
			h = tokens(h)
			return blocks.Release(t.in.Adapted(s, h, a), h)
		}
		return tokens(blocks.Release(t.in.Adapted(s, h, a), h))
	})
}

// leave returns features x plus those of tokens h.
func (t *transformer) leave(s *torch.Scope, x, h *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := x.Shape()
		n, c, height, width := shape[0], shape[1], shape[2], shape[3]
		image := func(h *torch.Tensor) *torch.Tensor {
			return s.Tidy(func(s *torch.Scope) *torch.Tensor { return h.Reshape(s, n, height, width, c).Permute(s, 0, 3, 1, 2) })
		}
		if t.linear {
			h = t.out.Adapted(s, h, a)
			h = blocks.Release(image(h), h)
		} else {
			h = image(h)
			h = blocks.Release(t.out.Adapted(s, h, a), h)
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

// forward maps x [n, tokens, width] to the same shape, given the text's features. Sums are computed in place in a linear layer's output, which autograd has not saved.
func (b transformerBlock) forward(s *torch.Scope, x, text *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := b.norm1.Adapted(s, x, a)
		h = blocks.Release(b.self.Forward(s, h, h, a), h)
		h.AddInPlace(s, x)
		x = h
		h = b.norm2.Adapted(s, x, a)
		h = blocks.Release(b.cross.Forward(s, h, text, a), h)
		h.AddInPlace(s, x)
		x.Free()
		x = h
		h = b.norm3.Adapted(s, x, a)
		h = blocks.Release(b.mlp(s, h, a), h)
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
