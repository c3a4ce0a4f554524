package torch

/*
#cgo noescape ct_unary
#cgo nocallback ct_unary
#cgo noescape ct_binary
#cgo nocallback ct_binary
#cgo noescape ct_with_sizes
#cgo nocallback ct_with_sizes
#include "../csrc/ct.h"
*/
import "C"

// Elementwise operators. Operands broadcast against each other as in PyTorch, and their dtypes are promoted as there.
// With a whole-number scalar, integer tensors keep their dtype.

var (
	opNeg              = newOp("aten::neg")
	opExp              = newOp("aten::exp")
	opExpm1            = newOp("aten::expm1")
	opLog              = newOp("aten::log")
	opLog1p            = newOp("aten::log1p")
	opSqrt             = newOp("aten::sqrt")
	opRsqrt            = newOp("aten::rsqrt")
	opSquare           = newOp("aten::square")
	opReciprocal       = newOp("aten::reciprocal")
	opAbs              = newOp("aten::abs")
	opSign             = newOp("aten::sign")
	opSin              = newOp("aten::sin")
	opCos              = newOp("aten::cos")
	opTan              = newOp("aten::tan")
	opAtan             = newOp("aten::atan")
	opErf              = newOp("aten::erf")
	opErfinv           = newOp("aten::erfinv")
	opFloor            = newOp("aten::floor")
	opCeil             = newOp("aten::ceil")
	opRound            = newOp("aten::round")
	opSigmoid          = newOp("aten::sigmoid")
	opTanh             = newOp("aten::tanh")
	opSiLU             = newOp("aten::silu")
	opReLU             = newOp("aten::relu")
	opSoftplus         = newOp("aten::softplus")
	opIsFinite         = newOp("aten::isfinite")
	opLogicalNot       = newOp("aten::logical_not")
	opAdd              = newOp("aten::add.Tensor")
	opSub              = newOp("aten::sub.Tensor")
	opMul              = newOp("aten::mul.Tensor")
	opDiv              = newOp("aten::div.Tensor")
	opPow              = newOp("aten::pow.Tensor_Tensor")
	opAtan2            = newOp("aten::atan2")
	opMaximum          = newOp("aten::maximum")
	opMinimum          = newOp("aten::minimum")
	opEq               = newOp("aten::eq.Tensor")
	opNe               = newOp("aten::ne.Tensor")
	opLt               = newOp("aten::lt.Tensor")
	opLe               = newOp("aten::le.Tensor")
	opGt               = newOp("aten::gt.Tensor")
	opGe               = newOp("aten::ge.Tensor")
	opLogicalAnd       = newOp("aten::logical_and")
	opLogicalOr        = newOp("aten::logical_or")
	opMatMul           = newOp("aten::matmul")
	opAddScalar        = newOp("aten::add.Scalar")
	opSubScalar        = newOp("aten::sub.Scalar")
	opMulScalar        = newOp("aten::mul.Scalar")
	opDivScalar        = newOp("aten::div.Scalar")
	opPowScalar        = newOp("aten::pow.Tensor_Scalar")
	opEqScalar         = newOp("aten::eq.Scalar")
	opNeScalar         = newOp("aten::ne.Scalar")
	opLtScalar         = newOp("aten::lt.Scalar")
	opLeScalar         = newOp("aten::le.Scalar")
	opGtScalar         = newOp("aten::gt.Scalar")
	opGeScalar         = newOp("aten::ge.Scalar")
	opRemainderScalar  = newOp("aten::remainder.Scalar")
	opFloorDivScalar   = newOp("aten::floor_divide.Scalar")
	opAddInPlace       = newOp("aten::add_.Tensor")
	opSubInPlace       = newOp("aten::sub_.Tensor")
	opMulInPlace       = newOp("aten::mul_.Tensor")
	opDivInPlace       = newOp("aten::div_.Tensor")
	opAddScalarInPlace = newOp("aten::add_.Scalar")
	opMulScalarInPlace = newOp("aten::mul_.Scalar")
	opSiLUInPlace      = newOp("aten::silu_")
	opFillInPlace      = newOp("aten::fill_.Scalar")
)

func (o *op) unary(s *Scope, x *Tensor) *Tensor {
	var out C.ct_tensor
	if e := C.ct_unary(o.handle(), C.uint32_t(s.mode), x.handleFor(o), &out); e != nil {
		o.fail(e, x)
	}
	return o.result(s, out)
}

func (o *op) binary(s *Scope, x, y *Tensor) *Tensor {
	var out C.ct_tensor
	if e := C.ct_binary(o.handle(), C.uint32_t(s.mode), x.handleFor(o), y.handleFor(o), &out); e != nil {
		o.fail(e, x, y)
	}
	return o.result(s, out)
}

// withSizes runs an operator of a tensor and a list of numbers.
func (o *op) withSizes(s *Scope, x *Tensor, sizes []int) *Tensor {
	var few [8]C.int64_t
	list := few[:0]
	for _, v := range sizes {
		list = append(list, C.int64_t(v))
	}
	var first *C.int64_t
	if len(list) > 0 {
		first = &list[0]
	}
	var out C.ct_tensor
	if e := C.ct_with_sizes(o.handle(), C.uint32_t(s.mode), x.handleFor(o), first, C.int32_t(len(list)), &out); e != nil {
		o.fail(e, x)
	}
	return o.result(s, out)
}

// result returns an operator's result, owned by s.
func (o *op) result(s *Scope, h C.ct_tensor) *Tensor {
	live.Add(1)
	t := &Tensor{h: h}
	if !s.add(t) {
		panic(errClosed(o.String()))
	}
	return t
}

// handle looks the operator up; it panics if this libtorch does not have it.
func (o *op) handle() C.ct_op {
	if f := o.found.Load(); f != nil {
		return f.h
	}
	h, err := o.find()
	if err != nil {
		panic(err)
	}
	return h
}

// fail panics with the error, naming the operands.
func (o *op) fail(e *C.ct_error, operands ...*Tensor) {
	err := take(e, o.String())
	err.Shapes = describe(operands...)
	panic(err)
}

func (o *op) withScalar(s *Scope, x *Tensor, v float64) *Tensor {
	c := call{op: o, s: s}
	return c.t(x).scalar(v).one()
}

// Neg returns -t, elementwise.
func (t *Tensor) Neg(s *Scope) *Tensor { return opNeg.unary(s, t) }

// Exp returns e^t, elementwise.
func (t *Tensor) Exp(s *Scope) *Tensor { return opExp.unary(s, t) }

// Expm1 returns e^t - 1, elementwise.
func (t *Tensor) Expm1(s *Scope) *Tensor { return opExpm1.unary(s, t) }

// Log returns the natural logarithm, elementwise.
func (t *Tensor) Log(s *Scope) *Tensor { return opLog.unary(s, t) }

// Log1p returns ln(1 + t), elementwise.
func (t *Tensor) Log1p(s *Scope) *Tensor { return opLog1p.unary(s, t) }

// Sqrt returns the square root, elementwise.
func (t *Tensor) Sqrt(s *Scope) *Tensor { return opSqrt.unary(s, t) }

// Rsqrt returns 1/√t, elementwise.
func (t *Tensor) Rsqrt(s *Scope) *Tensor { return opRsqrt.unary(s, t) }

// Square returns t², elementwise.
func (t *Tensor) Square(s *Scope) *Tensor { return opSquare.unary(s, t) }

// Reciprocal returns 1/t, elementwise.
func (t *Tensor) Reciprocal(s *Scope) *Tensor { return opReciprocal.unary(s, t) }

// Abs returns |t|, elementwise.
func (t *Tensor) Abs(s *Scope) *Tensor { return opAbs.unary(s, t) }

// Sign returns the sign: -1, 0 or 1, elementwise.
func (t *Tensor) Sign(s *Scope) *Tensor { return opSign.unary(s, t) }

// Sin returns the sine, elementwise.
func (t *Tensor) Sin(s *Scope) *Tensor { return opSin.unary(s, t) }

// Cos returns the cosine, elementwise.
func (t *Tensor) Cos(s *Scope) *Tensor { return opCos.unary(s, t) }

// Tan returns the tangent, elementwise.
func (t *Tensor) Tan(s *Scope) *Tensor { return opTan.unary(s, t) }

// Atan returns the inverse tangent, elementwise.
func (t *Tensor) Atan(s *Scope) *Tensor { return opAtan.unary(s, t) }

// Erf returns the error function, elementwise.
func (t *Tensor) Erf(s *Scope) *Tensor { return opErf.unary(s, t) }

// Erfinv returns the inverse of the error function, elementwise.
func (t *Tensor) Erfinv(s *Scope) *Tensor { return opErfinv.unary(s, t) }

// Floor rounds down to a whole number, elementwise.
func (t *Tensor) Floor(s *Scope) *Tensor { return opFloor.unary(s, t) }

// Ceil rounds up to a whole number, elementwise.
func (t *Tensor) Ceil(s *Scope) *Tensor { return opCeil.unary(s, t) }

// Round rounds to the nearest whole number, halves to even, elementwise.
func (t *Tensor) Round(s *Scope) *Tensor { return opRound.unary(s, t) }

// Sigmoid returns 1/(1 + e^-t), elementwise.
func (t *Tensor) Sigmoid(s *Scope) *Tensor { return opSigmoid.unary(s, t) }

// Tanh returns the hyperbolic tangent, elementwise.
func (t *Tensor) Tanh(s *Scope) *Tensor { return opTanh.unary(s, t) }

// SiLU returns t·sigmoid(t), elementwise.
func (t *Tensor) SiLU(s *Scope) *Tensor { return opSiLU.unary(s, t) }

// ReLU returns max(t, 0), elementwise.
func (t *Tensor) ReLU(s *Scope) *Tensor { return opReLU.unary(s, t) }

// Softplus returns ln(1 + e^t), elementwise.
func (t *Tensor) Softplus(s *Scope) *Tensor { return opSoftplus.unary(s, t) }

// IsFinite returns whether each element is neither NaN nor infinite, as bool.
func (t *Tensor) IsFinite(s *Scope) *Tensor { return opIsFinite.unary(s, t) }

// LogicalNot returns whether each element is zero, as bool.
func (t *Tensor) LogicalNot(s *Scope) *Tensor { return opLogicalNot.unary(s, t) }

// Add returns t + y.
func (t *Tensor) Add(s *Scope, y *Tensor) *Tensor { return opAdd.binary(s, t, y) }

// Sub returns t - y.
func (t *Tensor) Sub(s *Scope, y *Tensor) *Tensor { return opSub.binary(s, t, y) }

// Mul returns t·y.
func (t *Tensor) Mul(s *Scope, y *Tensor) *Tensor { return opMul.binary(s, t, y) }

// Div returns t/y.
func (t *Tensor) Div(s *Scope, y *Tensor) *Tensor { return opDiv.binary(s, t, y) }

// Pow returns t^y.
func (t *Tensor) Pow(s *Scope, y *Tensor) *Tensor { return opPow.binary(s, t, y) }

// Atan2 returns the angle of the point (y, t).
func (t *Tensor) Atan2(s *Scope, y *Tensor) *Tensor { return opAtan2.binary(s, t, y) }

// Maximum returns the larger of each pair.
func (t *Tensor) Maximum(s *Scope, y *Tensor) *Tensor { return opMaximum.binary(s, t, y) }

// Minimum returns the smaller of each pair.
func (t *Tensor) Minimum(s *Scope, y *Tensor) *Tensor { return opMinimum.binary(s, t, y) }

// Eq returns t = y, as bool.
func (t *Tensor) Eq(s *Scope, y *Tensor) *Tensor { return opEq.binary(s, t, y) }

// Ne returns t ≠ y, as bool.
func (t *Tensor) Ne(s *Scope, y *Tensor) *Tensor { return opNe.binary(s, t, y) }

// Lt returns t < y, as bool.
func (t *Tensor) Lt(s *Scope, y *Tensor) *Tensor { return opLt.binary(s, t, y) }

// Le returns t ≤ y, as bool.
func (t *Tensor) Le(s *Scope, y *Tensor) *Tensor { return opLe.binary(s, t, y) }

// Gt returns t > y, as bool.
func (t *Tensor) Gt(s *Scope, y *Tensor) *Tensor { return opGt.binary(s, t, y) }

// Ge returns t ≥ y, as bool.
func (t *Tensor) Ge(s *Scope, y *Tensor) *Tensor { return opGe.binary(s, t, y) }

// LogicalAnd returns whether both are non-zero, as bool.
func (t *Tensor) LogicalAnd(s *Scope, y *Tensor) *Tensor { return opLogicalAnd.binary(s, t, y) }

// LogicalOr returns whether either is non-zero, as bool.
func (t *Tensor) LogicalOr(s *Scope, y *Tensor) *Tensor { return opLogicalOr.binary(s, t, y) }

// MatMul returns the matrix product: of matrices [M, K]·[K, N], and of batches of them.
func (t *Tensor) MatMul(s *Scope, y *Tensor) *Tensor { return opMatMul.binary(s, t, y) }

// AddScalar returns t + v.
func (t *Tensor) AddScalar(s *Scope, v float64) *Tensor { return opAddScalar.withScalar(s, t, v) }

// SubScalar returns t - v.
func (t *Tensor) SubScalar(s *Scope, v float64) *Tensor { return opSubScalar.withScalar(s, t, v) }

// MulScalar returns t·v.
func (t *Tensor) MulScalar(s *Scope, v float64) *Tensor { return opMulScalar.withScalar(s, t, v) }

// DivScalar returns t/v.
func (t *Tensor) DivScalar(s *Scope, v float64) *Tensor { return opDivScalar.withScalar(s, t, v) }

// PowScalar returns t^v.
func (t *Tensor) PowScalar(s *Scope, v float64) *Tensor { return opPowScalar.withScalar(s, t, v) }

// EqScalar returns t = v, as bool.
func (t *Tensor) EqScalar(s *Scope, v float64) *Tensor { return opEqScalar.withScalar(s, t, v) }

// NeScalar returns t ≠ v, as bool.
func (t *Tensor) NeScalar(s *Scope, v float64) *Tensor { return opNeScalar.withScalar(s, t, v) }

// LtScalar returns t < v, as bool.
func (t *Tensor) LtScalar(s *Scope, v float64) *Tensor { return opLtScalar.withScalar(s, t, v) }

// LeScalar returns t ≤ v, as bool.
func (t *Tensor) LeScalar(s *Scope, v float64) *Tensor { return opLeScalar.withScalar(s, t, v) }

// GtScalar returns t > v, as bool.
func (t *Tensor) GtScalar(s *Scope, v float64) *Tensor { return opGtScalar.withScalar(s, t, v) }

// GeScalar returns t ≥ v, as bool.
func (t *Tensor) GeScalar(s *Scope, v float64) *Tensor { return opGeScalar.withScalar(s, t, v) }

// RemainderScalar returns the remainder of t/v, with v's sign.
func (t *Tensor) RemainderScalar(s *Scope, v float64) *Tensor {
	return opRemainderScalar.withScalar(s, t, v)
}

// FloorDivScalar returns t/v rounded down.
func (t *Tensor) FloorDivScalar(s *Scope, v float64) *Tensor {
	return opFloorDivScalar.withScalar(s, t, v)
}

// AddInPlace adds y to t, in t's memory.
func (t *Tensor) AddInPlace(s *Scope, y *Tensor) {
	c := call{op: opAddInPlace, s: s}
	c.t(t).t(y).zero()
}

// SubInPlace subtracts y from t, in t's memory.
func (t *Tensor) SubInPlace(s *Scope, y *Tensor) {
	c := call{op: opSubInPlace, s: s}
	c.t(t).t(y).zero()
}

// MulInPlace multiplies t by y, in t's memory.
func (t *Tensor) MulInPlace(s *Scope, y *Tensor) {
	c := call{op: opMulInPlace, s: s}
	c.t(t).t(y).zero()
}

// DivInPlace divides t by y, in t's memory.
func (t *Tensor) DivInPlace(s *Scope, y *Tensor) {
	c := call{op: opDivInPlace, s: s}
	c.t(t).t(y).zero()
}

// AddScalarInPlace adds v to t, in t's memory.
func (t *Tensor) AddScalarInPlace(s *Scope, v float64) {
	c := call{op: opAddScalarInPlace, s: s}
	c.t(t).scalar(v).zero()
}

// SiLUInPlace replaces t by t·sigmoid(t), in t's memory. It must not be used with gradients on.
func (t *Tensor) SiLUInPlace(s *Scope) {
	c := call{op: opSiLUInPlace, s: s}
	c.t(t).zero()
}

// MulScalarInPlace multiplies t by v, in t's memory.
func (t *Tensor) MulScalarInPlace(s *Scope, v float64) {
	c := call{op: opMulScalarInPlace, s: s}
	c.t(t).scalar(v).zero()
}

// FillInPlace sets every element to v, in t's memory.
func (t *Tensor) FillInPlace(s *Scope, v float64) {
	c := call{op: opFillInPlace, s: s}
	c.t(t).scalar(v).zero()
}
