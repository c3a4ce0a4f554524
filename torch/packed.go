package torch

// Packed weights and Swap are exported for package nn, whose layers reorder their weights at the first input of a shape, and for
// attention here: networks built from package nn's layers do not need them.

var (
	opPackConv2D   = newOp("mkldnn::_reorder_convolution_weight")
	opPackedConv2D = newOp("mkldnn::_convolution_pointwise")
	opPackLinear   = newOp("mkldnn::_reorder_linear_weight")
	opPackedLinear = newOp("mkldnn::_linear_pointwise")
	opPacksBF16    = newOp("mkldnn::_is_mkldnn_bf16_supported")
	opProduct      = newOp("onestep::product")
	opUnfold       = newOp("aten::im2col")
	opUnsafeView   = newOp("aten::_unsafe_view")
	opVersion      = newOp("aten::_version")
)

// Packs reports whether convolutions and linear layers in d on the CPU can run on weights that were reordered in advance; see
// [Tensor.PackConv2D] and [Tensor.PackLinear]. It depends on the processor and on how libtorch was built.
func Packs(d DType) bool {
	if _, err := opPackedConv2D.find(); err != nil {
		return false
	}
	switch d {
	case Float32:
		return true
	case BFloat16:
		var yes bool
		err := Catch(func() {
			c := call{op: opPacksBF16, s: &Scope{}}
			yes, _ = c.results()[0].(bool)
		})
		return err == nil && yes
	}
	return false
}

// PackConv2D returns the weight t [out, in/groups, kh, kw] of a convolution on the CPU in oneDNN's memory format for
// inputs of that shape [B, in, H, W]; convolutions with a plain weight reorder it in every call, which costs more than their
// arithmetic for small images with many channels. The result is opaque: only [Tensor.PackedConv2D] can use it.
func (t *Tensor) PackConv2D(s *Scope, input []int, o Conv2DOptions) *Tensor {
	c := call{op: opPackConv2D, s: s}
	return c.t(t).pair(o.Padding).pair(max(o.Stride, 1)).pair(max(o.Dilation, 1)).int(max(o.Groups, 1)).ints(input).one()
}

// PackedConv2D is [Tensor.Conv2D] with a packed weight, without gradients; o has to be the options that the weight was packed
// with. Inputs of another shape than it was packed for are slower. The result has t's memory layout.
func (t *Tensor) PackedConv2D(s *Scope, packed, b *Tensor, o Conv2DOptions) *Tensor {
	c := call{op: opPackedConv2D, s: s}
	c.t(t).t(packed).opt(b).pair(o.Padding).pair(max(o.Stride, 1)).pair(max(o.Dilation, 1)).int(max(o.Groups, 1))
	return c.str("none").floats(nil).str("").one()
}

// PackLinear returns the weight t [out, in] of a linear layer on the CPU in oneDNN's memory format for that many rows of input. In float32
// this makes layers two to three times as fast on processors for which MKL, which plain weights use, is slow. The result is opaque: only
// [Tensor.PackedLinear] can use it.
func (t *Tensor) PackLinear(s *Scope, rows int) *Tensor {
	c := call{op: opPackLinear, s: s}
	return c.t(t).int(rows).one()
}

// PackedLinear is [Tensor.Linear] with a packed weight, without gradients. Another number of rows than it was packed for is slower.
func (t *Tensor) PackedLinear(s *Scope, packed, b *Tensor) *Tensor {
	c := call{op: opPackedLinear, s: s}
	return c.t(t).t(packed).opt(b).str("none").floats(nil).str("").one()
}

// Product is [Tensor.Linear] on the CPU by oneDNN, with gradients, for t [..., in] and w [out, in] in a type that [Packs]. The weight is used
// as it is, without being packed. In float32 that takes 0.6 to 0.9 of the time of MKL, which Linear calls, on AMD's processors.
func (t *Tensor) Product(s *Scope, w, b *Tensor) *Tensor {
	return s.Tidy(func(s *Scope) *Tensor {
		shape := t.Shape()
		last := len(shape) - 1
		if last != 1 {
			t = t.Reshape(s, -1, shape[last])
		}
		c := call{op: opProduct, s: s}
		y := c.t(t).t(w).opt(b).one()
		if last == 1 {
			return y
		}
		shape[last] = y.Dim(1)
		return y.fresh(s, shape)
	})
}

// fresh returns t, which is not used otherwise, in another shape. To autograd it is no view, so that changing it in place needs no
// copy of its gradient.
func (t *Tensor) fresh(s *Scope, shape []int) *Tensor {
	c := call{op: opUnsafeView, s: s}
	return c.t(t).ints(shape).one()
}

// ProductConv2D is [Tensor.Conv2D] as a [Tensor.Product] with the matrix of all patches, [in·kh·kw, B·h'·w'], for small images with many
// channels, whose weights are larger: a convolution reorders its weight in each call, which takes longer there than its arithmetic. o must
// have no groups and no dilation.
func (t *Tensor) ProductConv2D(s *Scope, w, b *Tensor, o Conv2DOptions) *Tensor {
	return s.Tidy(func(s *Scope) *Tensor {
		in, kernel := t.Shape(), w.Shape()
		stride := max(o.Stride, 1)
		h, width := (in[2]+2*o.Padding-kernel[2])/stride+1, (in[3]+2*o.Padding-kernel[3])/stride+1
		c := call{op: opUnfold, s: s}
		patches := c.t(t).ints(kernel[2:]).pair(1).pair(o.Padding).pair(stride).one()
		if in[0] > 1 {
			patches = patches.Transpose(s, 0, 1)
		}
		patches = patches.Reshape(s, in[1]*kernel[2]*kernel[3], in[0]*h*width)
		y := w.Flatten(s, 1, -1).Product(s, patches.Transpose(s, 0, 1), nil)
		if b != nil {
			y.AddInPlace(s, b.Unsqueeze(s, 1))
		}
		if in[0] == 1 {
			return y.fresh(s, []int{1, kernel[0], h, width})
		}
		return y.Reshape(s, kernel[0], in[0], h, width).Transpose(s, 0, 1).Contiguous(s)
	})
}

// Swap exchanges two tensors: each gets the other's values, shape, dtype and memory. Both keep their scopes. No other
// goroutine may be using either.
func Swap(a, b *Tensor) {
	a.handle("swap")
	b.handle("swap")
	a.h, b.h = b.h, a.h
}

// Version counts the in-place changes of the tensor. It panics for tensors made in inference mode, which have no count.
func (t *Tensor) Version() int {
	t.handleFor(opVersion)
	c := call{op: opVersion, s: t.scope}
	return c.t(t).results()[0].(int)
}
