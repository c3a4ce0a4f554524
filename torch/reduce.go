package torch

var (
	opSum        = newOp("aten::sum")
	opSumDim     = newOp("aten::sum.dim_IntList")
	opMean       = newOp("aten::mean")
	opMeanDim    = newOp("aten::mean.dim")
	opNorm       = newOp("aten::linalg_vector_norm")
	opVar        = newOp("aten::var.correction")
	opStd        = newOp("aten::std.correction")
	opMax        = newOp("aten::max")
	opMin        = newOp("aten::min")
	opMaxDim     = newOp("aten::amax")
	opMinDim     = newOp("aten::amin")
	opArgMax     = newOp("aten::argmax")
	opArgMin     = newOp("aten::argmin")
	opAll        = newOp("aten::all")
	opAny        = newOp("aten::any")
	opCumSum     = newOp("aten::cumsum")
	opCumProd    = newOp("aten::cumprod")
	opQuantile   = newOp("aten::quantile.scalar")
	opSoftmax    = newOp("aten::softmax.int")
	opLogSoftmax = newOp("aten::log_softmax.int")
	opLogSumExp  = newOp("aten::logsumexp")
	opSort       = newOp("aten::sort")
	opSearch     = newOp("aten::searchsorted.Tensor")
)

// Sum returns the sum of all elements, 0-dimensional. Integers and bools add up as int64.
func (t *Tensor) Sum(s *Scope) *Tensor { return opSum.unary(s, t) }

// SumDim sums over the dimensions; keep leaves them with size 1.
func (t *Tensor) SumDim(s *Scope, keep bool, dims ...int) *Tensor {
	c := call{op: opSumDim, s: s}
	return c.t(t).ints(dims).bool(keep).one()
}

// Mean returns the mean of all elements, 0-dimensional.
func (t *Tensor) Mean(s *Scope) *Tensor { return opMean.unary(s, t) }

// MeanDim averages over the dimensions; keep leaves them with size 1.
func (t *Tensor) MeanDim(s *Scope, keep bool, dims ...int) *Tensor {
	c := call{op: opMeanDim, s: s}
	return c.t(t).ints(dims).bool(keep).one()
}

// Norm returns the Euclidean norm of all elements, 0-dimensional.
func (t *Tensor) Norm(s *Scope) *Tensor { return opNorm.unary(s, t) }

// NormDim returns the Euclidean norm over the dimensions; keep leaves them with size 1.
func (t *Tensor) NormDim(s *Scope, keep bool, dims ...int) *Tensor {
	c := call{op: opNorm, s: s}
	return c.t(t).int(2).ints(dims).bool(keep).one()
}

// Var returns the variance of all elements, divided by n - correction (1 for the unbiased estimate), 0-dimensional.
func (t *Tensor) Var(s *Scope, correction int) *Tensor {
	c := call{op: opVar, s: s}
	return c.t(t).none().int(correction).one()
}

// Std returns the standard deviation of all elements, with n - correction below the root, 0-dimensional.
func (t *Tensor) Std(s *Scope, correction int) *Tensor {
	c := call{op: opStd, s: s}
	return c.t(t).none().int(correction).one()
}

// StdDim returns the standard deviation over the dimensions; keep leaves them with size 1.
func (t *Tensor) StdDim(s *Scope, correction int, keep bool, dims ...int) *Tensor {
	c := call{op: opStd, s: s}
	return c.t(t).ints(dims).int(correction).bool(keep).one()
}

// Max returns the largest element, 0-dimensional; NaN when there is one.
func (t *Tensor) Max(s *Scope) *Tensor { return opMax.unary(s, t) }

// Min returns the smallest element, 0-dimensional; NaN when there is one.
func (t *Tensor) Min(s *Scope) *Tensor { return opMin.unary(s, t) }

// MaxDim returns the largest element along the dimensions; keep leaves them with size 1.
func (t *Tensor) MaxDim(s *Scope, keep bool, dims ...int) *Tensor {
	c := call{op: opMaxDim, s: s}
	return c.t(t).ints(dims).bool(keep).one()
}

// MinDim returns the smallest element along the dimensions; keep leaves them with size 1.
func (t *Tensor) MinDim(s *Scope, keep bool, dims ...int) *Tensor {
	c := call{op: opMinDim, s: s}
	return c.t(t).ints(dims).bool(keep).one()
}

// ArgMax returns the index of the largest element along dim, as int64.
func (t *Tensor) ArgMax(s *Scope, dim int) *Tensor {
	c := call{op: opArgMax, s: s}
	return c.t(t).int(dim).one()
}

// ArgMin returns the index of the smallest element along dim, as int64.
func (t *Tensor) ArgMin(s *Scope, dim int) *Tensor {
	c := call{op: opArgMin, s: s}
	return c.t(t).int(dim).one()
}

// All returns whether every element is non-zero, as a 0-dimensional bool.
func (t *Tensor) All(s *Scope) *Tensor { return opAll.unary(s, t) }

// Any returns whether any element is non-zero, as a 0-dimensional bool.
func (t *Tensor) Any(s *Scope) *Tensor { return opAny.unary(s, t) }

// CumSum returns the running sums along dim.
func (t *Tensor) CumSum(s *Scope, dim int) *Tensor {
	c := call{op: opCumSum, s: s}
	return c.t(t).int(dim).one()
}

// CumProd returns the running products along dim.
func (t *Tensor) CumProd(s *Scope, dim int) *Tensor {
	c := call{op: opCumProd, s: s}
	return c.t(t).int(dim).one()
}

// Quantile returns the q-quantile along dim, linearly interpolated between neighbours; q is in [0, 1].
func (t *Tensor) Quantile(s *Scope, q float64, dim int, keep bool) *Tensor {
	c := call{op: opQuantile, s: s}
	return c.t(t).float(q).int(dim).bool(keep).str("linear").one()
}

// Softmax returns e^t divided by its sum along dim.
func (t *Tensor) Softmax(s *Scope, dim int) *Tensor {
	c := call{op: opSoftmax, s: s}
	return c.t(t).int(dim).one()
}

// LogSoftmax returns the logarithm of Softmax.
func (t *Tensor) LogSoftmax(s *Scope, dim int) *Tensor {
	c := call{op: opLogSoftmax, s: s}
	return c.t(t).int(dim).one()
}

// LogSumExp returns ln Σ e^t over the dimensions; keep leaves them with size 1.
func (t *Tensor) LogSumExp(s *Scope, keep bool, dims ...int) *Tensor {
	c := call{op: opLogSumExp, s: s}
	return c.t(t).ints(dims).bool(keep).one()
}

// Sort returns the elements in order along dim, and their indices as int64.
func (t *Tensor) Sort(s *Scope, dim int, descending bool) (values, indices *Tensor) {
	c := call{op: opSort, s: s}
	r := c.t(t).int(dim).bool(descending).many()
	return r[0], r[1]
}

// SearchSorted returns, for each of values, its insertion index in the sorted t, as int64; right inserts after equal elements.
func (t *Tensor) SearchSorted(s *Scope, values *Tensor, right bool) *Tensor {
	c := call{op: opSearch, s: s}
	return c.t(t).t(values).bool(false).bool(right).one()
}
