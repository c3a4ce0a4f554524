package torch

/*
#include <stdlib.h>
#include "../csrc/ct.h"

char *onestepRecompute(uint64_t id, ct_tensor *inputs, int32_t ninputs, ct_tensor *grads, int32_t ngrads, int32_t *kind);
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A checkpoint's function runs again inside libtorch's backward pass, on whatever thread that uses. The node in C holds an
// id; this table maps it to the function until the graph is released.
var checkpoints struct {
	sync.Mutex
	next  uint64
	funcs map[uint64]checkpoint
}

// held is the number of functions in the table: scopes check it when they close.
var held atomic.Int64

type checkpoint struct {
	device Device
	f      func(s *Scope, inputs []*Tensor) []*Tensor
}

// Checkpoint is gradient checkpointing: it runs f without keeping intermediate results for backward, and runs it again when
// gradients arrive. That costs one more forward pass and saves the memory of the intermediate results. f must be a function of its inputs and of tensors
// that live until then (parameters), and must draw randomness only from generators it makes itself. Gradients reach the
// inputs and the parameters that f uses, which is why [Backward] must not be given Inputs, and why [Grad] and second
// derivatives are refused. An error of the second run is returned by the backward pass. Outputs that carry no gradients,
// such as indices, are returned unchanged. With gradients off it only calls f.
func Checkpoint(s *Scope, f func(s *Scope, inputs []*Tensor) []*Tensor, inputs ...*Tensor) []*Tensor {
	if s.mode != 0 {
		return f(s, inputs)
	}
	c := s.child(C.CT_NO_GRAD)
	c.again = true
	defer c.Close()
	// A parameter inside f may require gradients when no input does; without an edge the node would not be reached.
	anchor := Zeros(s, Float32)
	anchor.SetRequiresGrad(true)
	defer anchor.Free()
	outputs := f(c, inputs)
	in := handles("checkpoint", append(append([]*Tensor{}, inputs...), anchor))
	out := handles("checkpoint", outputs)

	checkpoints.Lock()
	if checkpoints.funcs == nil {
		checkpoints.funcs = map[uint64]checkpoint{}
	}
	checkpoints.next++
	id := checkpoints.next
	checkpoints.funcs[id] = checkpoint{s.device, f}
	held.Store(int64(len(checkpoints.funcs)))
	checkpoints.Unlock()

	again := C.ct_recompute(C.onestepRecompute)
	got := make([]C.ct_tensor, len(out)+1)
	if e := C.ct_checkpoint(first(in), C.int32_t(len(in)), first(out), C.int32_t(len(out)), C.uint64_t(id), again, &got[0]); e != nil {
		checkpoints.Lock()
		delete(checkpoints.funcs, id)
		held.Store(int64(len(checkpoints.funcs)))
		checkpoints.Unlock()
		err := take(e, "checkpoint")
		err.Shapes = describe(outputs...)
		panic(err)
	}
	list := make([]*Tensor, len(out))
	for i := range list {
		list[i] = newTensor(s, got[i], "checkpoint")
	}
	return list
}

// forgetCheckpoints drops the functions whose graphs were released.
func forgetCheckpoints() {
	checkpoints.Lock()
	defer checkpoints.Unlock()
	for len(checkpoints.funcs) > 0 {
		var ids [64]C.uint64_t
		n := C.ct_checkpoints_released(&ids[0], C.int32_t(len(ids)))
		for _, id := range ids[:n] {
			delete(checkpoints.funcs, uint64(id))
		}
		if int(n) < len(ids) {
			break
		}
	}
	held.Store(int64(len(checkpoints.funcs)))
}

// onestepRecompute runs a checkpoint's function with gradients on and backpropagates the arriving gradients through it. It
// owns the handles. The last input is the anchor, which f does not get. On failure it returns a message and sets kind.
//
//export onestepRecompute
func onestepRecompute(id C.uint64_t, inputs *C.ct_tensor, ninputs C.int32_t, grads *C.ct_tensor, ngrads C.int32_t, kind *C.int32_t) (msg *C.char) {
	checkpoints.Lock()
	cp, ok := checkpoints.funcs[uint64(id)]
	checkpoints.Unlock()
	s := NewScope(cp.device)
	defer s.Close()
	defer func() {
		// A panic must not unwind through C++.
		switch r := recover().(type) {
		case nil:
		case *Error:
			if errors.Is(r, ErrOutOfMemory) {
				*kind = C.CT_ERR_OUT_OF_MEMORY
			}
			msg = C.CString("checkpoint: " + r.Error())
		default: // a bug: without the stack its place would be lost
			msg = C.CString(fmt.Sprintf("checkpoint: panic: %v\n%s", r, debug.Stack()))
		}
	}()
	own := func(p *C.ct_tensor, n C.int32_t) []*Tensor {
		list := make([]*Tensor, n)
		for i, h := range unsafe.Slice(p, n) {
			if h != nil {
				list[i] = newTensor(s, h, "checkpoint")
			}
		}
		return list
	}
	in, g := own(inputs, ninputs), own(grads, ngrads)
	if !ok {
		return C.CString("checkpoint: the graph was released")
	}
	outputs := cp.f(s, in[:len(in)-1])
	if len(outputs) != len(g) {
		return C.CString(fmt.Sprintf("checkpoint: the function returned %d outputs at first and %d when run again", len(g), len(outputs)))
	}
	var o BackwardOptions
	var roots []*Tensor
	for i, t := range outputs {
		if g[i] != nil && t.RequiresGrad() {
			roots, o.Grads = append(roots, t), append(o.Grads, g[i])
		}
	}
	if len(roots) > 0 {
		Backward(roots, o)
	}
	return nil
}
