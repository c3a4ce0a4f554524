package torch

import "fmt"

var (
	opZeros        = newOp("aten::zeros")
	opOnes         = newOp("aten::ones")
	opEmpty        = newOp("aten::empty.memory_format")
	opFull         = newOp("aten::full")
	opArange       = newOp("aten::arange")
	opLinspace     = newOp("aten::linspace")
	opEye          = newOp("aten::eye")
	opZerosLike    = newOp("aten::zeros_like")
	opReshape      = newOp("aten::reshape")
	opView         = newOp("aten::view")
	opFlatten      = newOp("aten::flatten.using_ints")
	opTranspose    = newOp("aten::transpose.int")
	opPermute      = newOp("aten::permute")
	opUnsqueeze    = newOp("aten::unsqueeze")
	opSqueeze      = newOp("aten::squeeze.dim")
	opExpand       = newOp("aten::expand")
	opContiguous   = newOp("aten::contiguous")
	opNarrow       = newOp("aten::narrow")
	opSlice        = newOp("aten::slice.Tensor")
	opSelect       = newOp("aten::select.int")
	opIndexSelect  = newOp("aten::index_select")
	opIndex        = newOp("aten::index.Tensor")
	opIndexPut     = newOp("aten::index_put_")
	opGather       = newOp("aten::gather")
	opChunk        = newOp("aten::chunk")
	opSplit        = newOp("aten::split.Tensor")
	opUnbind       = newOp("aten::unbind.int")
	opCat          = newOp("aten::cat")
	opStack        = newOp("aten::stack")
	opFlip         = newOp("aten::flip")
	opRepeat       = newOp("aten::repeat")
	opRepeatInter  = newOp("aten::repeat_interleave.self_int")
	opTo           = newOp("aten::to.dtype_layout")
	opClone        = newOp("aten::clone")
	opCopyInPlace  = newOp("aten::copy_")
	opZeroInPlace  = newOp("aten::zero_")
	opAddmmInPlace = newOp("aten::addmm_")
	opLerp         = newOp("aten::lerp.Scalar")
	opLerpInPlace  = newOp("aten::lerp_.Scalar")
	opClamp        = newOp("aten::clamp")
	opWhere        = newOp("aten::where.self")
	opGELU         = newOp("aten::gelu")
	opAddcmul      = newOp("aten::addcmul")
	opTril         = newOp("aten::tril")
	opTriu         = newOp("aten::triu")
	opMaskedFill   = newOp("aten::masked_fill.Scalar")
)

// Zeros makes a tensor of zeros on the scope's device.
func Zeros(s *Scope, d DType, shape ...int) *Tensor {
	c := call{op: opZeros, s: s}
	return c.ints(shape).options(d).one()
}

// Ones makes a tensor of ones on the scope's device.
func Ones(s *Scope, d DType, shape ...int) *Tensor {
	c := call{op: opOnes, s: s}
	return c.ints(shape).options(d).one()
}

// Empty makes a tensor with uninitialized elements.
func Empty(s *Scope, d DType, shape ...int) *Tensor {
	c := call{op: opEmpty, s: s}
	return c.ints(shape).options(d).one()
}

// Full makes a tensor whose elements are all v.
func Full(s *Scope, v float64, d DType, shape ...int) *Tensor {
	c := call{op: opFull, s: s}
	return c.ints(shape).scalar(v).options(d).one()
}

// Arange makes the one-dimensional tensor 0, 1, …, n-1.
func Arange(s *Scope, n int, d DType) *Tensor {
	c := call{op: opArange, s: s}
	return c.int(n).options(d).one()
}

// Linspace makes n evenly spaced numbers from a to b, both included.
func Linspace(s *Scope, a, b float64, n int, d DType) *Tensor {
	c := call{op: opLinspace, s: s}
	return c.float(a).float(b).int(n).options(d).one()
}

// Eye makes the n×n identity matrix.
func Eye(s *Scope, n int, d DType) *Tensor {
	c := call{op: opEye, s: s}
	return c.int(n).options(d).one()
}

// ZerosLike makes zeros of t's shape, dtype, device and memory layout.
func ZerosLike(s *Scope, t *Tensor) *Tensor { return opZerosLike.unary(s, t) }

// Reshape returns the elements in another shape, without a copy if the memory layout allows. One size may be -1.
func (t *Tensor) Reshape(s *Scope, shape ...int) *Tensor { return opReshape.withSizes(s, t, shape) }

// View is Reshape that never copies: it panics if a copy would be needed.
func (t *Tensor) View(s *Scope, shape ...int) *Tensor { return opView.withSizes(s, t, shape) }

// Flatten joins the dimensions from start to end, both included, into one. Negative numbers count from the last.
func (t *Tensor) Flatten(s *Scope, start, end int) *Tensor {
	c := call{op: opFlatten, s: s}
	return c.t(t).int(start).int(end).one()
}

// Transpose swaps two dimensions, as a view.
func (t *Tensor) Transpose(s *Scope, a, b int) *Tensor {
	c := call{op: opTranspose, s: s}
	return c.t(t).int(a).int(b).one()
}

// Permute reorders the dimensions, as a view.
func (t *Tensor) Permute(s *Scope, dims ...int) *Tensor { return opPermute.withSizes(s, t, dims) }

// Unsqueeze inserts a dimension of size 1 before dimension dim, as a view.
func (t *Tensor) Unsqueeze(s *Scope, dim int) *Tensor {
	c := call{op: opUnsqueeze, s: s}
	return c.t(t).int(dim).one()
}

// Squeeze removes dimension dim if its size is 1, as a view.
func (t *Tensor) Squeeze(s *Scope, dim int) *Tensor {
	c := call{op: opSqueeze, s: s}
	return c.t(t).int(dim).one()
}

// Expand repeats dimensions of size 1 to the given sizes without a copy; -1 keeps a size.
func (t *Tensor) Expand(s *Scope, shape ...int) *Tensor {
	c := call{op: opExpand, s: s}
	return c.t(t).ints(shape).one()
}

// ExpandAs expands t to y's shape without a copy.
func (t *Tensor) ExpandAs(s *Scope, y *Tensor) *Tensor { return t.Expand(s, y.Shape()...) }

// MulPerSample multiplies each sample of t [B, ...] by its own factor [B], or all by one [1]; t's dtype is kept.
func (t *Tensor) MulPerSample(s *Scope, factor *Tensor) *Tensor {
	return t.Mul(s, factor.To(s, t.DType()).PerSample(s, t.NDim()))
}

// PerSample views a tensor [B] as [B, 1, …, 1] with ndim dimensions, so that it multiplies each of a batch's samples.
func (t *Tensor) PerSample(s *Scope, ndim int) *Tensor {
	in := t.info("per_sample")
	if in.ndim != 1 || ndim < 1 {
		panic(&Error{Op: "per_sample", Msg: fmt.Sprintf("want a tensor [B] and at least 1 dimension, got %d", ndim), Shapes: describe(t)})
	}
	shape := make([]int, ndim)
	for i := range shape {
		shape[i] = 1
	}
	shape[0] = int(in.words[6])
	return t.Reshape(s, shape...)
}

// Contiguous returns the tensor contiguous in memory, copying if it is not.
func (t *Tensor) Contiguous(s *Scope) *Tensor { return opContiguous.unary(s, t) }

// ChannelsLast returns a [B, C, H, W] tensor in channels-last memory layout (B, H, W, C), copying if it is not.
func (t *Tensor) ChannelsLast(s *Scope) *Tensor {
	c := call{op: opContiguous, s: s}
	return c.t(t).int(int(ChannelsLast)).one()
}

// Narrow returns length elements of dimension dim from start on, as a view.
func (t *Tensor) Narrow(s *Scope, dim, start, length int) *Tensor {
	c := call{op: opNarrow, s: s}
	return c.t(t).int(dim).int(start).int(length).one()
}

// Slice returns the elements from, from+step, … below to of dimension dim, as a view, as Python's t[from:to:step].
func (t *Tensor) Slice(s *Scope, dim, from, to, step int) *Tensor {
	c := call{op: opSlice, s: s}
	return c.t(t).int(dim).int(from).int(to).int(step).one()
}

// Select returns the i-th element of dimension dim, as a view without that dimension.
func (t *Tensor) Select(s *Scope, dim, i int) *Tensor {
	c := call{op: opSelect, s: s}
	return c.t(t).int(dim).int(i).one()
}

// IndexSelect returns the elements of dimension dim at the indices idx, an int64 [n].
func (t *Tensor) IndexSelect(s *Scope, dim int, idx *Tensor) *Tensor {
	c := call{op: opIndexSelect, s: s}
	return c.t(t).int(dim).t(idx).one()
}

// Index returns t[idx[0], idx[1], …] with index tensors or a bool mask, as in PyTorch; nil stands for a whole
// dimension (Python's ":").
func (t *Tensor) Index(s *Scope, idx ...*Tensor) *Tensor {
	c := call{op: opIndex, s: s}
	return c.t(t).optTs(idx).one()
}

// IndexPutInPlace sets t[idx[0], idx[1], …] to v, which broadcasts; with accumulate it adds instead.
func (t *Tensor) IndexPutInPlace(s *Scope, idx []*Tensor, v *Tensor, accumulate bool) {
	c := call{op: opIndexPut, s: s}
	c.t(t).optTs(idx).t(v).bool(accumulate).zero()
}

// Gather picks along dimension dim with an int64 tensor of indices, as PyTorch's gather.
func (t *Tensor) Gather(s *Scope, dim int, idx *Tensor) *Tensor {
	c := call{op: opGather, s: s}
	return c.t(t).int(dim).t(idx).one()
}

// Chunk cuts dimension dim into n pieces of equal size (the last may be smaller), as views.
func (t *Tensor) Chunk(s *Scope, n, dim int) []*Tensor {
	c := call{op: opChunk, s: s}
	return c.t(t).int(n).int(dim).many()
}

// Split cuts dimension dim into pieces of the given size (the last may be smaller), as views.
func (t *Tensor) Split(s *Scope, size, dim int) []*Tensor {
	c := call{op: opSplit, s: s}
	return c.t(t).int(size).int(dim).many()
}

// Unbind cuts dimension dim into its elements, as views without that dimension.
func (t *Tensor) Unbind(s *Scope, dim int) []*Tensor {
	c := call{op: opUnbind, s: s}
	return c.t(t).int(dim).many()
}

// Cat joins tensors along an existing dimension.
func Cat(s *Scope, ts []*Tensor, dim int) *Tensor {
	c := call{op: opCat, s: s}
	return c.ts(ts).int(dim).one()
}

// Stack joins tensors of equal shape along a new dimension.
func Stack(s *Scope, ts []*Tensor, dim int) *Tensor {
	c := call{op: opStack, s: s}
	return c.ts(ts).int(dim).one()
}

// Flip reverses the order of the elements along the dimensions.
func (t *Tensor) Flip(s *Scope, dims ...int) *Tensor {
	c := call{op: opFlip, s: s}
	return c.t(t).ints(dims).one()
}

// Repeat tiles the tensor, so many times along each dimension.
func (t *Tensor) Repeat(s *Scope, times ...int) *Tensor {
	c := call{op: opRepeat, s: s}
	return c.t(t).ints(times).one()
}

// RepeatInterleave repeats each element of dimension dim n times.
func (t *Tensor) RepeatInterleave(s *Scope, n, dim int) *Tensor {
	c := call{op: opRepeatInter, s: s}
	return c.t(t).int(n).int(dim).one()
}

// To returns the tensor in another dtype, or the tensor itself if it has that dtype.
func (t *Tensor) To(s *Scope, d DType) *Tensor {
	c := call{op: opTo, s: s}
	return c.t(t).dtype(d).one()
}

// ToDevice returns the tensor on another device, or the tensor itself if it is there.
func (t *Tensor) ToDevice(s *Scope, dev Device) *Tensor {
	c := call{op: opTo, s: s}
	return c.t(t).none().none().device(dev).one()
}

// Clone copies the tensor.
func (t *Tensor) Clone(s *Scope) *Tensor { return opClone.unary(s, t) }

// CopyFrom sets t's elements to y's, which broadcasts and is converted and moved as needed.
func (t *Tensor) CopyFrom(s *Scope, y *Tensor) {
	c := call{op: opCopyInPlace, s: s}
	c.t(t).t(y).zero()
}

// ZeroInPlace sets every element to zero.
func (t *Tensor) ZeroInPlace(s *Scope) {
	c := call{op: opZeroInPlace, s: s}
	c.t(t).zero()
}

// AddScaledInPlace adds v·y to t, in t's memory.
func (t *Tensor) AddScaledInPlace(s *Scope, y *Tensor, v float64) {
	c := call{op: opAddInPlace, s: s}
	c.t(t).t(y).scalar(v).zero()
}

// AddProductInPlace adds v·a·b to t [n, m], in t's memory, where a is [n, k] and b [k, m].
func (t *Tensor) AddProductInPlace(s *Scope, a, b *Tensor, v float64) {
	c := call{op: opAddmmInPlace, s: s}
	c.t(t).t(a).t(b).scalar(1).scalar(v).zero()
}

// Lerp returns t + w·(end - t).
func (t *Tensor) Lerp(s *Scope, end *Tensor, w float64) *Tensor {
	c := call{op: opLerp, s: s}
	return c.t(t).t(end).float(w).one()
}

// LerpInPlace moves t towards end by the fraction w, in t's memory.
func (t *Tensor) LerpInPlace(s *Scope, end *Tensor, w float64) {
	c := call{op: opLerpInPlace, s: s}
	c.t(t).t(end).float(w).zero()
}

// AddCMul returns t + v·a·b.
func (t *Tensor) AddCMul(s *Scope, a, b *Tensor, v float64) *Tensor {
	c := call{op: opAddcmul, s: s}
	return c.t(t).t(a).t(b).scalar(v).one()
}

// Clamp limits every element to [lo, hi]. NaN stays NaN.
func (t *Tensor) Clamp(s *Scope, lo, hi float64) *Tensor {
	c := call{op: opClamp, s: s}
	return c.t(t).scalar(lo).scalar(hi).one()
}

// ClampMin limits every element from below.
func (t *Tensor) ClampMin(s *Scope, lo float64) *Tensor {
	c := call{op: opClamp, s: s}
	return c.t(t).scalar(lo).none().one()
}

// Where takes a where cond (bool) holds and b elsewhere; all three broadcast.
func Where(s *Scope, cond, a, b *Tensor) *Tensor {
	c := call{op: opWhere, s: s}
	return c.t(cond).t(a).t(b).one()
}

// MaskedFill sets the elements where mask (bool) holds to v.
func (t *Tensor) MaskedFill(s *Scope, mask *Tensor, v float64) *Tensor {
	c := call{op: opMaskedFill, s: s}
	return c.t(t).t(mask).scalar(v).one()
}

// GELU returns t·Φ(t), by the error function, or by its tanh approximation.
func (t *Tensor) GELU(s *Scope, tanh bool) *Tensor {
	c := call{op: opGELU, s: s}
	if tanh {
		return c.t(t).str("tanh").one()
	}
	return c.t(t).str("none").one()
}

// Tril returns the lower triangle of a matrix, zeros above the diagonal-th diagonal.
func (t *Tensor) Tril(s *Scope, diagonal int) *Tensor {
	c := call{op: opTril, s: s}
	return c.t(t).int(diagonal).one()
}

// Triu returns the upper triangle of a matrix, zeros below the diagonal-th diagonal.
func (t *Tensor) Triu(s *Scope, diagonal int) *Tensor {
	c := call{op: opTriu, s: s}
	return c.t(t).int(diagonal).one()
}
