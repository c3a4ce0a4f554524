package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import "fmt"

// RequiresGrad reports whether operators on the tensor are recorded for backward.
func (t *Tensor) RequiresGrad() bool {
	in := t.info("requires_grad")
	return in.flags()&C.CT_REQUIRES_GRAD != 0
}

// SetRequiresGrad makes a leaf tensor accumulate gradients, or stop. It panics for integer tensors and, when turning off,
// for results of recorded operators.
func (t *Tensor) SetRequiresGrad(on bool) {
	if e := C.ct_tensor_set_requires_grad(t.handle("requires_grad_"), flag(on)); e != nil {
		panic(t.failed(e, "requires_grad_"))
	}
}

// Grad returns a handle to the gradient that backward passes have added up in a leaf, owned by s; nil if there is
// none.
func (t *Tensor) Grad(s *Scope) *Tensor {
	var h C.ct_tensor
	if e := C.ct_tensor_grad(t.handle("grad"), &h); e != nil {
		panic(t.failed(e, "grad"))
	}
	if h == nil {
		return nil
	}
	return newTensor(s, h, "grad")
}

// HasGrad reports whether the tensor has a gradient.
func (t *Tensor) HasGrad() bool {
	in := t.info("grad")
	return in.flags()&C.CT_HAS_GRAD != 0
}

// SetGrad replaces the gradient; nil removes it.
func (t *Tensor) SetGrad(g *Tensor) {
	var h C.ct_tensor
	if g != nil {
		h = g.handle("set_grad")
	}
	if e := C.ct_tensor_set_grad(t.handle("set_grad"), h); e != nil {
		panic(t.failed(e, "set_grad"))
	}
}

// ZeroGrad removes the gradient and frees its memory; the next backward pass makes a new one.
func (t *Tensor) ZeroGrad() { t.SetGrad(nil) }

// BackwardOptions are the optional settings of [Backward] and [Grad].
type BackwardOptions struct {
	Grads       []*Tensor // gradient of each output, of its shape; required for outputs that are not scalars
	Inputs      []*Tensor // Backward: accumulate gradients only in these leaves; empty: in all
	RetainGraph bool      // keep the graph for a second backward pass
	CreateGraph bool      // record the backward pass itself, for higher derivatives
	AllowUnused bool      // Grad: nil for an input that the outputs do not depend on, instead of an error
}

func (o BackwardOptions) flags() (f C.uint32_t) {
	if o.RetainGraph {
		f |= C.CT_RETAIN_GRAPH
	}
	if o.CreateGraph {
		f |= C.CT_CREATE_GRAPH
	}
	if o.AllowUnused {
		f |= C.CT_ALLOW_UNUSED
	}
	return f
}

func handles(op string, ts []*Tensor) []C.ct_tensor {
	out := make([]C.ct_tensor, len(ts), len(ts)+1) // capacity of at least 1, so that first is a valid address
	for i, t := range ts {
		out[i] = t.handle(op)
	}
	return out
}

func first(h []C.ct_tensor) *C.ct_tensor { return &h[:1][0] }

func (o BackwardOptions) grads(op string, outputs int) (*C.ct_tensor, error) {
	if outputs == 0 {
		return nil, fmt.Errorf("want at least one output")
	}
	if o.Grads == nil {
		return nil, nil
	}
	if len(o.Grads) != outputs {
		return nil, fmt.Errorf("%d gradients for %d outputs", len(o.Grads), outputs)
	}
	return first(handles(op, o.Grads)), nil
}

// Backward adds the gradients of t, a scalar, to every leaf it was computed from.
func (t *Tensor) Backward() { Backward([]*Tensor{t}, BackwardOptions{}) }

// Backward adds the gradients of the outputs to the leaves they were computed from.
func Backward(outputs []*Tensor, o BackwardOptions) {
	mustOpen("backward")
	out, in := handles("backward", outputs), handles("backward", o.Inputs)
	grads, err := o.grads("backward", len(outputs))
	if err != nil {
		panic(&Error{Op: "backward", Msg: err.Error()})
	}
	if e := C.ct_backward(first(out), grads, C.int32_t(len(out)), first(in), C.int32_t(len(in)), o.flags()); e != nil {
		err := take(e, "backward")
		err.Shapes = describe(outputs...)
		panic(err)
	}
}

// Grad returns the gradients of the outputs with respect to each of the inputs, owned by s, and leaves the tensors'
// own gradients alone. It panics when an input is not part of the outputs' computation, unless AllowUnused is set.
func Grad(s *Scope, outputs, inputs []*Tensor, o BackwardOptions) []*Tensor {
	mustOpen("grad")
	out, in := handles("grad", outputs), handles("grad", inputs)
	grads, err := o.grads("grad", len(outputs))
	if err != nil {
		panic(&Error{Op: "grad", Msg: err.Error()})
	}
	got := make([]C.ct_tensor, len(in)+1)
	if e := C.ct_grad(first(out), grads, C.int32_t(len(out)), first(in), C.int32_t(len(in)), o.flags(), &got[0]); e != nil {
		err := take(e, "grad")
		err.Shapes = describe(append(append([]*Tensor{}, outputs...), inputs...)...)
		panic(err)
	}
	list := make([]*Tensor, len(in))
	for i := range list {
		if got[i] != nil {
			list[i] = newTensor(s, got[i], "grad")
		}
	}
	return list
}

var (
	opAlias  = newOp("aten::alias")
	opDetach = newOp("aten::detach")
	opNorms  = newOp("aten::_foreach_norm.Scalar")
)

// Alias returns a handle to the same values that is a step of its own in the recorded computation: what flows back through it is summed
// up before it is added to the gradient of t.
func (t *Tensor) Alias(s *Scope) *Tensor {
	c := call{op: opAlias, s: s}
	return c.t(t).one()
}

// Detach returns a handle to the same values that is not part of any recorded computation.
func (t *Tensor) Detach(s *Scope) *Tensor {
	c := call{op: opDetach, s: s}
	return c.t(t).one()
}

// gradsOf returns the gradients of those parameters that have one.
func gradsOf(s *Scope, params []*Tensor) []*Tensor {
	var grads []*Tensor
	for _, p := range params {
		if g := p.Grad(s); g != nil {
			grads = append(grads, g)
		}
	}
	return grads
}

// GradNorm returns the Euclidean norm of all the parameters' gradients together, 0-dimensional, as float32, or float64 when
// one of them is.
func GradNorm(s *Scope, params []*Tensor) *Tensor {
	return s.NoGradTidy(func(s *Scope) *Tensor { return norm(s, gradsOf(s, params)) })
}

func norm(s *Scope, ts []*Tensor) *Tensor {
	if len(ts) == 0 {
		return Zeros(s, Float32)
	}
	wide := Float32
	for _, t := range ts {
		if t.DType() == Float64 {
			wide = Float64
		}
	}
	c := call{op: opNorms, s: s}
	return Stack(s, c.ts(ts).int(2).dtype(wide).many(), 0).Norm(s)
}

// ClipGradNorm scales the parameters' gradients so that their common norm is at most limit, and returns the norm from
// before. The rule is PyTorch's clip_grad_norm_: the factor is limit/(norm + 1e-6), never above 1. The norm's dtype is [GradNorm]'s. A norm that is not
// finite makes all gradients non-finite: check it before the optimizer steps.
func ClipGradNorm(s *Scope, params []*Tensor, limit float64) *Tensor {
	return s.NoGradTidy(func(s *Scope) *Tensor {
		grads := gradsOf(s, params)
		total := norm(s, grads)
		if len(grads) > 0 {
			factor := total.AddScalar(s, 1e-6).Reciprocal(s).MulScalar(s, limit).Clamp(s, 0, 1)
			ForeachMulTensorInPlace(s, grads, factor)
		}
		return total
	})
}

// CountNonFinite returns how many elements of the tensors are NaN or infinite.
func CountNonFinite(s *Scope, ts []*Tensor) int {
	count := s.NoGradTidy(func(s *Scope) *Tensor {
		sum := Zeros(s, Int64)
		for _, t := range ts {
			sum.AddInPlace(s, s.Tidy(func(s *Scope) *Tensor { return t.IsFinite(s).LogicalNot(s).Sum(s) }))
		}
		return sum
	})
	defer count.Free()
	return count.Int()
}
