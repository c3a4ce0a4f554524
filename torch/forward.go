package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// forward is libtorch's level of forward-mode derivatives, of which a process has one. A JVP enters it and leaves it at its
// end, and JVPs of several goroutines take turns. Staying in the level forever would let them run in parallel, since
// tangents belong to their tensors. But only leaving drops the tangents of tensors that f stored elsewhere: one that it kept
// or changed in place would carry its tangent into a later JVP's result. With gradients on, the graph of a tangent can also
// save a view of the tensor that carries it (the graph of exp's does), a reference cycle that only leaving breaks.
var forward struct {
	sync.Mutex
	scope atomic.Pointer[Scope] // f's; nil while no JVP runs
}

// JVP returns y = f(xs) and dy = Σ ∂f/∂x_i·v_i, its derivative in the direction of vs, of y's shape and dtype. One pass
// computes both, in little more than the time of two (forward-mode differentiation). vs has one tangent for each input, of its
// shape, dtype and device; nil stands for zero, and is required for inputs that are not floating-point. If y does not depend
// on the inputs, dy is zero.
//
// Both results are plain tensors in s; everything else of the pass is freed, even if f fails. With gradients on, y carries
// the graph that f records, and dy a graph of its own to the same leaves and to vs: Detach what is used as a target.
// Tangents ignore a scope's mode: inside f, [Tensor.Detach] makes constants and [Scope.NoGrad] does not. Tensors of an
// inference scope are constants, and JVP must not be called in one.
//
// f must not call JVP (Grad with CreateGraph gives second derivatives) nor, with gradients on, [Checkpoint], and must not
// wait for a JVP of another goroutine, which waits for this one to end. An operator without a forward-mode derivative is an
// error that names it. [Attention] holds all its weights here, [B, heads, L, S].
func JVP(s *Scope, f func(s *Scope, xs []*Tensor) *Tensor, xs, vs []*Tensor) (y, dy *Tensor) {
	checkTangents(s, xs, vs)
	leave := enterForward(s)
	defer leave()
	defer explainForward()
	c := s.child(0)
	defer c.Close()
	forward.scope.Store(c)

	duals := make([]*Tensor, len(xs))
	for i, x := range xs {
		duals[i] = x
		if vs[i] != nil {
			duals[i] = dual(c, x, vs[i])
		}
	}
	y = f(c, duals)
	h := y.handle("jvp")
	if in := y.info("jvp"); !in.dtype().IsFloat() || in.flags()&C.CT_INFERENCE_TENSOR != 0 {
		panic(&Error{Op: "jvp", Msg: "the function's result has no derivative: want floating-point numbers, made outside inference scopes", Shapes: describe(y)})
	}
	var t C.ct_tensor
	if e := C.ct_forward_tangent(h, &t); e != nil {
		panic(y.failed(e, "jvp"))
	}
	if t != nil {
		dy = newTensor(c, t, "jvp")
	} else {
		dy = ZerosLike(c, y)
	}
	if y.scope == c {
		c.Keep(y)
	}
	return y, c.Keep(dy)
}

// dual returns x with the tangent v.
func dual(s *Scope, x, v *Tensor) *Tensor {
	var h C.ct_tensor
	if e := C.ct_forward_dual(C.uint32_t(s.mode), x.handle("jvp"), v.handle("jvp"), &h); e != nil {
		err := take(e, "jvp")
		err.Shapes = describe(x, v)
		panic(err)
	}
	return newTensor(s, h, "jvp")
}

func checkTangents(s *Scope, xs, vs []*Tensor) {
	fail := func(msg string, ts ...*Tensor) { panic(&Error{Op: "jvp", Msg: msg, Shapes: describe(ts...)}) }
	if s.mode&C.CT_INFERENCE != 0 {
		fail("tensors of inference scopes cannot carry tangents: call JVP in a NoGrad scope")
	}
	if len(xs) != len(vs) {
		fail(fmt.Sprintf("%d inputs and %d tangents: want one for each input, nil for zero", len(xs), len(vs)))
	}
	for i, x := range xs {
		in := x.info("jvp")
		v := vs[i]
		if v == nil {
			continue
		}
		if vin := v.info("jvp"); !in.dtype().IsFloat() {
			fail(fmt.Sprintf("input %d is not floating-point: want nil for its tangent", i), x, v)
		} else if fmt.Sprint(in.shape()) != fmt.Sprint(vin.shape()) || in.dtype() != vin.dtype() || in.device() != vin.device() {
			fail(fmt.Sprintf("tangent %d must have its input's shape, dtype and device", i), x, v)
		}
	}
}

// enterForward waits for the level and enters it. The goroutine is locked to its thread until it leaves, which distinguishes a
// JVP inside f from one of another goroutine.
func enterForward(s *Scope) (leave func()) {
	mustOpen("jvp")
	nested := C.ct_forward_is_here() != 0
	running := forward.scope.Load()
	for p := s; p != nil && running != nil; p = p.parent {
		nested = nested || p == running
	}
	if nested {
		panic(&Error{Op: "jvp", Msg: "JVP must not be called inside another JVP's function: for second derivatives use Grad with CreateGraph there"})
	}
	runtime.LockOSThread()
	forward.Lock()
	if e := C.ct_forward_enter(); e != nil {
		forward.Unlock()
		runtime.UnlockOSThread()
		panic(take(e, "jvp"))
	}
	return func() {
		forward.scope.Store(nil)
		e := C.ct_forward_leave()
		forward.Unlock()
		runtime.UnlockOSThread()
		if e != nil {
			panic(take(e, "jvp"))
		}
	}
}

// InJVP reports whether s is a scope of a function that [JVP] differentiates.
func (s *Scope) InJVP() bool {
	f := forward.scope.Load()
	for p := s; f != nil && p != nil; p = p.parent {
		if p == f {
			return true
		}
	}
	return false
}

// explainForward rewrites the panic of an operator without a forward-mode derivative to say what to do; libtorch's own message
// asks for a bug report.
func explainForward() {
	r := recover()
	if r == nil {
		return
	}
	if e, ok := r.(*Error); ok {
		if _, rest, ok := strings.Cut(e.Msg, "Trying to use forward AD with "); ok {
			name, _, _ := strings.Cut(rest, " ")
			e.Msg = name + " has no forward-mode derivative in libtorch: use other operators, or Detach its operands where they are constants"
		}
	}
	panic(r)
}
