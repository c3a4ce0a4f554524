package torch

// Operators on lists of tensors in one call, for optimizers and EMA weights. All lists have equal lengths and pairwise equal
// shapes.

var (
	opForeachAddList   = newOp("aten::_foreach_add_.List")
	opForeachMul       = newOp("aten::_foreach_mul_.Scalar")
	opForeachMulTensor = newOp("aten::_foreach_mul_.Tensor")
	opForeachLerp      = newOp("aten::_foreach_lerp_.Scalar")
	opForeachCopy      = newOp("aten::_foreach_copy_")
	opForeachZero      = newOp("aten::_foreach_zero_")
	opForeachAddcmul   = newOp("aten::_foreach_addcmul_.Scalar")
	opForeachAddcdiv   = newOp("aten::_foreach_addcdiv_.Scalar")
	opForeachSqrt      = newOp("aten::_foreach_sqrt")
	opForeachAddScalar = newOp("aten::_foreach_add_.Scalar")
	opForeachDivScalar = newOp("aten::_foreach_div_.Scalar")
	opForeachAdd       = newOp("aten::_foreach_add.List")
)

// ForeachAddInPlace adds alpha·src to dst.
func ForeachAddInPlace(s *Scope, dst, src []*Tensor, alpha float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachAddList, s: s}
	c.ts(dst).ts(src).scalar(alpha).zero()
}

// ForeachAdd returns a + alpha·b.
func ForeachAdd(s *Scope, a, b []*Tensor, alpha float64) []*Tensor {
	if len(a) == 0 {
		return nil
	}
	c := call{op: opForeachAdd, s: s}
	return c.ts(a).ts(b).scalar(alpha).many()
}

// ForeachMulInPlace multiplies every tensor by v.
func ForeachMulInPlace(s *Scope, dst []*Tensor, v float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachMul, s: s}
	c.ts(dst).scalar(v).zero()
}

// ForeachMulTensorInPlace multiplies every tensor by the 0-dimensional v.
func ForeachMulTensorInPlace(s *Scope, dst []*Tensor, v *Tensor) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachMulTensor, s: s}
	c.ts(dst).t(v).zero()
}

// ForeachLerpInPlace moves dst towards src by the fraction w.
func ForeachLerpInPlace(s *Scope, dst, src []*Tensor, w float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachLerp, s: s}
	c.ts(dst).ts(src).float(w).zero()
}

// ForeachCopyInPlace sets dst to src, converted and moved as needed.
func ForeachCopyInPlace(s *Scope, dst, src []*Tensor) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachCopy, s: s}
	c.ts(dst).ts(src).zero()
}

// ForeachZeroInPlace sets every element to zero.
func ForeachZeroInPlace(s *Scope, dst []*Tensor) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachZero, s: s}
	c.ts(dst).zero()
}

// ForeachAddCMulInPlace adds v·a·b to dst.
func ForeachAddCMulInPlace(s *Scope, dst, a, b []*Tensor, v float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachAddcmul, s: s}
	c.ts(dst).ts(a).ts(b).scalar(v).zero()
}

// ForeachAddCDivInPlace adds v·a/b to dst.
func ForeachAddCDivInPlace(s *Scope, dst, a, b []*Tensor, v float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachAddcdiv, s: s}
	c.ts(dst).ts(a).ts(b).scalar(v).zero()
}

// ForeachSqrt returns the square roots.
func ForeachSqrt(s *Scope, ts []*Tensor) []*Tensor {
	if len(ts) == 0 {
		return nil
	}
	c := call{op: opForeachSqrt, s: s}
	return c.ts(ts).many()
}

// ForeachAddScalarInPlace adds v to every element.
func ForeachAddScalarInPlace(s *Scope, dst []*Tensor, v float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachAddScalar, s: s}
	c.ts(dst).scalar(v).zero()
}

// ForeachDivScalarInPlace divides every element by v.
func ForeachDivScalarInPlace(s *Scope, dst []*Tensor, v float64) {
	if len(dst) == 0 {
		return
	}
	c := call{op: opForeachDivScalar, s: s}
	c.ts(dst).scalar(v).zero()
}
