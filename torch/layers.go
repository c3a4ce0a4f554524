package torch

import "fmt"

var (
	opLinear      = newOp("aten::linear")
	opConv2D      = newOp("aten::conv2d")
	opGroupNorm   = newOp("aten::group_norm")
	opLayerNorm   = newOp("aten::layer_norm")
	opBatchNorm   = newOp("aten::batch_norm")
	opAvgPool     = newOp("aten::avg_pool2d")
	opAdaptiveAvg = newOp("aten::adaptive_avg_pool2d")
	opMaxPool     = newOp("aten::max_pool2d")
	opNearest     = newOp("aten::upsample_nearest2d.vec")
	opBilinear    = newOp("aten::upsample_bilinear2d.vec")
	opBilinearAA  = newOp("aten::_upsample_bilinear2d_aa.vec")
	opBicubic     = newOp("aten::upsample_bicubic2d.vec")
	opBicubicAA   = newOp("aten::_upsample_bicubic2d_aa.vec")
	opPad         = newOp("aten::pad")
	opEmbedding   = newOp("aten::embedding")
	opAttention   = newOp("aten::scaled_dot_product_attention")
)

// Linear returns t·wᵀ + b for w [out, in]; b [out] may be nil.
func (t *Tensor) Linear(s *Scope, w, b *Tensor) *Tensor {
	c := call{op: opLinear, s: s}
	return c.t(t).t(w).opt(b).one()
}

// Conv2DOptions are the settings of a convolution. Their zero values stand for stride 1, no padding, dilation 1 and one
// group.
type Conv2DOptions struct {
	Stride, Padding, Dilation, Groups int
}

// Conv2D convolves t [B, in, H, W] with w [out, in/groups, kh, kw]; b [out] may be nil.
func (t *Tensor) Conv2D(s *Scope, w, b *Tensor, o Conv2DOptions) *Tensor {
	c := call{op: opConv2D, s: s}
	return c.t(t).t(w).opt(b).pair(max(o.Stride, 1)).pair(o.Padding).pair(max(o.Dilation, 1)).int(max(o.Groups, 1)).one()
}

// GroupNorm normalises each group of channels of t [B, C, …] to mean 0 and variance 1, then scales by w [C] and shifts by
// b [C] (Wu & He 2018). w and b may be nil.
func (t *Tensor) GroupNorm(s *Scope, groups int, w, b *Tensor, eps float64) *Tensor {
	c := call{op: opGroupNorm, s: s}
	return c.t(t).int(groups).opt(w).opt(b).float(eps).one()
}

// LayerNorm normalises over the last dimensions, which have the given shape; w and b of that shape may be nil.
func (t *Tensor) LayerNorm(s *Scope, shape []int, w, b *Tensor, eps float64) *Tensor {
	c := call{op: opLayerNorm, s: s}
	return c.t(t).ints(shape).opt(w).opt(b).float(eps).one()
}

// BatchNorm normalises t [B, C, …] with the running mean and variance [C], then scales by w and shifts by b.
func (t *Tensor) BatchNorm(s *Scope, w, b, mean, variance *Tensor, eps float64) *Tensor {
	c := call{op: opBatchNorm, s: s}
	return c.t(t).opt(w).opt(b).opt(mean).opt(variance).bool(false).float(0).float(eps).bool(true).one()
}

// AvgPool2D averages k×k squares of t [B, C, H, W], stepping by k.
func (t *Tensor) AvgPool2D(s *Scope, k int) *Tensor {
	c := call{op: opAvgPool, s: s}
	return c.t(t).pair(k).one()
}

// AdaptiveAvgPool2D averages t [B, C, H, W] down to h×w.
func (t *Tensor) AdaptiveAvgPool2D(s *Scope, h, w int) *Tensor {
	c := call{op: opAdaptiveAvg, s: s}
	return c.t(t).ints([]int{h, w}).one()
}

// MaxPool2D takes the largest of k×k squares of t [B, C, H, W].
func (t *Tensor) MaxPool2D(s *Scope, k, stride, padding int) *Tensor {
	c := call{op: opMaxPool, s: s}
	return c.t(t).pair(k).pair(stride).pair(padding).one()
}

// UpsampleNearest repeats every pixel of t [B, C, H, W] scale×scale times.
func (t *Tensor) UpsampleNearest(s *Scope, scale int) *Tensor {
	c := call{op: opNearest, s: s}
	return c.t(t).none().floats([]float64{float64(scale), float64(scale)}).one()
}

// InterpolateMode is a resampling method.
type InterpolateMode int

// The modes of Interpolate. The antialiased ones widen the filter when they shrink an image, as Pillow does.
const (
	Nearest InterpolateMode = iota
	Bilinear
	Bicubic
	BilinearAntialias
	BicubicAntialias
)

// Interpolate resizes t [B, C, H, W] to h×w pixels. Pixels are areas: corners are not aligned.
func (t *Tensor) Interpolate(s *Scope, h, w int, mode InterpolateMode) *Tensor {
	size := []int{h, w}
	if mode == Nearest {
		c := call{op: opNearest, s: s}
		return c.t(t).ints(size).none().one()
	}
	var o *op
	switch mode {
	case Bilinear:
		o = opBilinear
	case Bicubic:
		o = opBicubic
	case BilinearAntialias:
		o = opBilinearAA
	case BicubicAntialias:
		o = opBicubicAA
	default:
		panic(&Error{Op: "interpolate", Msg: fmt.Sprintf("unknown mode %d", mode), Shapes: describe(t)})
	}
	c := call{op: o, s: s}
	return c.t(t).ints(size).bool(false).none().one()
}

// PadMode is how padding is filled.
type PadMode string

// The modes of Pad.
const (
	PadConstant  PadMode = "constant"
	PadReflect   PadMode = "reflect"
	PadReplicate PadMode = "replicate"
)

// Pad adds elements before and after the last dimensions: pad lists (before, after), starting with the last dimension. v is the
// value in constant mode.
func (t *Tensor) Pad(s *Scope, pad []int, mode PadMode, v float64) *Tensor {
	c := call{op: opPad, s: s}
	c.t(t).ints(pad).str(string(mode))
	if mode == PadConstant {
		c.float(v)
	}
	return c.one()
}

// Embedding returns the rows of the table t [N, D] at the indices idx, an int64 tensor of any shape.
func (t *Tensor) Embedding(s *Scope, idx *Tensor) *Tensor { return opEmbedding.binary(s, t, idx) }

// AttentionOptions are the settings of Attention. Their zero values stand for scale 1/√D, no mask, not causal.
type AttentionOptions struct {
	Scale  float64 // factor of the products q·kᵀ; 0: 1/√D
	Mask   *Tensor // added to the scaled products (or bool: true may attend); broadcasts to [B, heads, L, S]
	Causal bool    // position i attends to positions up to i
}

// Attention is scaled dot-product attention, softmax(q·kᵀ·scale + mask)·v, for q [B, heads, L, D], k [B, heads, S, D] and
// v [B, heads, S, Dv]; the result is [B, heads, L, Dv] (Vaswani et al. 2017, eq. 1).
func Attention(s *Scope, q, k, v *Tensor, o AttentionOptions) *Tensor {
	if byRows(s, q, k, v, o) {
		return attentionByRows(s, q, k, v, o.Scale)
	}
	c := call{op: opAttention, s: s}
	c.t(q).t(k).t(v).opt(o.Mask).float(0).bool(o.Causal)
	if o.Scale != 0 {
		c.float(o.Scale)
	} else {
		c.none()
	}
	return c.one()
}
