package nn

import "github.com/onestep-go/onestep/torch"

// Linear is y = x·Wᵀ + b.
type Linear struct {
	Weight *torch.Tensor // [out, in]
	Bias   *torch.Tensor // [out], or nil

	packed *packed // nil: the weight is used unpacked
}

// NewLinear makes a linear layer with PyTorch's initial values.
func NewLinear(p Path, in, out int) Linear { return NewLinearInit(p, in, out, FanIn(in), FanIn(in)) }

// NewLinearInit makes a linear layer with the given rules for weight and bias; bias nil: none.
func NewLinearInit(p Path, in, out int, weight, bias Init) Linear {
	var l Linear
	l.Weight, l.packed = p.weight(weight, out, in)
	if bias != nil {
		l.Bias = p.Param("bias", bias, out)
	}
	p.note(l)
	return l
}

// Forward maps x [..., in] to [..., out].
func (l Linear) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if l.packed != nil {
		return l.packed.linear(s, l, x)
	}
	return l.apply(s, x, l.Weight)
}

// Conv2D is a two-dimensional convolution.
type Conv2D struct {
	Weight *torch.Tensor // [out, in/groups, k, k]
	Bias   *torch.Tensor // [out], or nil
	Opt    torch.Conv2DOptions

	packed *packed // nil: the weight is used unpacked
}

// NewConv2D makes a k×k convolution with PyTorch's initial values.
func NewConv2D(p Path, in, out, k int, o torch.Conv2DOptions) Conv2D {
	rule := FanIn(in / max(o.Groups, 1) * k * k)
	return NewConv2DInit(p, in, out, k, o, rule, rule)
}

// NewConv2DInit makes a k×k convolution with the given rules for weight and bias; bias nil: none.
func NewConv2DInit(p Path, in, out, k int, o torch.Conv2DOptions, weight, bias Init) Conv2D {
	c := Conv2D{Opt: o}
	c.Weight, c.packed = p.weight(weight, out, in/max(o.Groups, 1), k, k)
	if bias != nil {
		c.Bias = p.Param("bias", bias, out)
	}
	p.note(c)
	return c
}

// Forward maps x [B, in, H, W] to [B, out, H', W'].
func (c Conv2D) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if c.packed != nil {
		return c.packed.conv(s, c, x)
	}
	return c.apply(s, x, c.Weight)
}

// GroupNorm is group normalisation (Wu & He 2018).
type GroupNorm struct {
	Weight, Bias *torch.Tensor // [C]
	Groups       int
	Eps          float64
}

// NewGroupNorm makes a group norm with weight 1 and bias 0.
func NewGroupNorm(p Path, groups, channels int, eps float64) GroupNorm {
	g := GroupNorm{p.Param("weight", Ones, channels), p.Param("bias", Zeros, channels), groups, eps}
	p.note(g)
	return g
}

// Forward normalises x [B, C, ...].
func (g GroupNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return normed(s, x, g.Weight, g.Bias, func(s *torch.Scope, w, b *torch.Tensor) *torch.Tensor {
		return x.GroupNorm(s, g.Groups, w, b, g.Eps)
	})
}

// SiLU is Forward followed by SiLU, as one operator; see [torch.Tensor.GroupNormSiLU].
func (g GroupNorm) SiLU(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return normed(s, x, g.Weight, g.Bias, func(s *torch.Scope, w, b *torch.Tensor) *torch.Tensor {
		return x.GroupNormSiLU(s, g.Groups, w, b, g.Eps)
	})
}

// LayerNorm is layer normalisation over the last dimension.
type LayerNorm struct {
	Weight, Bias *torch.Tensor // [D]
	Eps          float64
}

// NewLayerNorm makes a layer norm over vectors of dim elements.
func NewLayerNorm(p Path, dim int, eps float64) LayerNorm {
	l := LayerNorm{p.Param("weight", Ones, dim), p.Param("bias", Zeros, dim), eps}
	p.note(l)
	return l
}

// Forward normalises x [..., D].
func (l LayerNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return normed(s, x, l.Weight, l.Bias, func(s *torch.Scope, w, b *torch.Tensor) *torch.Tensor {
		return x.LayerNorm(s, l.Weight.Shape(), w, b, l.Eps)
	})
}

// Embedding is a lookup table of vectors.
type Embedding struct {
	Weight *torch.Tensor // [N, D]
}

// NewEmbedding makes a table of n vectors of dim elements, initialized from N(0, 1) as in PyTorch.
func NewEmbedding(p Path, n, dim int) Embedding {
	return Embedding{p.Param("weight", Normal(1), n, dim)}
}

// Forward looks up idx (int64, any shape).
func (e Embedding) Forward(s *torch.Scope, idx *torch.Tensor) *torch.Tensor {
	return e.Weight.Embedding(s, idx)
}
