package torch

/*
#cgo noescape ct_tensors_free
#cgo nocallback ct_tensors_free
#include "../csrc/ct.h"
*/
import "C"

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Scope owns the tensors made in it and frees them when it closes. It also sets the device of new tensors and whether
// operators record gradients. A scope may be shared by goroutines; the tensors in it may be read by several at once.
type Scope struct {
	device Device
	mode   uint32
	parent *Scope
	// again: what runs here runs again with gradients, see Checkpoint, and has to compute in the same way both times.
	again bool
	// recording: what runs here becomes part of a graph, see Record.
	recording bool

	mu         sync.Mutex
	tensors    []*Tensor
	generators []*Generator
	closed     bool
}

// live counts tensor handles that have not been freed, for leak checks.
var live atomic.Int64

// Live returns the number of tensor handles that have not been freed, in all scopes. Tests compare it before and after.
func Live() int64 { return live.Load() }

// Run opens a root scope on dev, calls f, and frees everything made in it. An operator's panic inside f comes back as
// an error (an *Error); other panics are not recovered. The goroutine stays on one operating-system thread while f runs, because
// libtorch keeps a team of worker threads for each thread that calls it. With several teams the workers sleep after every operator, which slows
// small networks: programs that also call libtorch outside of Run, such as to build a network, call runtime.LockOSThread in an init function of
// package main. A device that cannot be used is an error.
func Run(dev Device, f func(s *Scope) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := dev.Available(); err != nil {
		return err
	}
	return run(NewScope(dev), f)
}

// NewScope opens a scope that lasts until Close, for owners of long-lived tensors such as a model's weights.
func NewScope(dev Device) *Scope { return &Scope{device: dev} }

// run calls f with the scope and closes it, turning an operator's panic into an error.
func run(s *Scope, f func(s *Scope) error) (err error) {
	defer func() {
		r := recover()
		s.Close()
		if r == nil {
			return
		}
		e, ok := r.(*Error)
		if !ok {
			panic(r)
		}
		err = e
	}()
	return f(s)
}

// Catch calls f and returns an operator's panic inside it as an error. Constructors use it, where no scope is opened.
func Catch(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	f()
	return nil
}

// child opens a scope inside s with further mode bits.
func (s *Scope) child(mode uint32) *Scope {
	return &Scope{device: s.device, mode: s.mode | mode, parent: s, again: s.again && mode == 0, recording: s.recording}
}

// Run calls f with a child scope and frees what was made in it, except what f hands to s with Keep. An operator's
// panic inside f comes back as an error.
func (s *Scope) Run(f func(s *Scope) error) error { return run(s.child(0), f) }

// NoGrad is Run with gradients off: operators record nothing for backward.
func (s *Scope) NoGrad(f func(s *Scope) error) error { return run(s.child(C.CT_NO_GRAD), f) }

// Inference is NoGrad with libtorch's inference mode, which is a little faster. Tensors made in it can never take part
// in recording gradients, not even as constants.
func (s *Scope) Inference(f func(s *Scope) error) error { return run(s.child(C.CT_INFERENCE), f) }

// Tidy calls f with a child scope, moves its result to s and frees the rest. Blocks of a network wrap themselves in it,
// so that a pass without gradients holds no more than one block's intermediate results. With gradients on, autograd
// keeps what backward needs and only the handles go. f may return one of the tensors it was given, or nil.
func (s *Scope) Tidy(f func(s *Scope) *Tensor) *Tensor { return tidy(s.child(0), f) }

// NoGradTidy is Tidy with gradients off.
func (s *Scope) NoGradTidy(f func(s *Scope) *Tensor) *Tensor { return tidy(s.child(C.CT_NO_GRAD), f) }

func tidy(c *Scope, f func(s *Scope) *Tensor) *Tensor {
	defer c.Close()
	t := f(c)
	if t != nil && t.scope == c {
		c.Keep(t)
	}
	return t
}

// Keep moves t from s to s's parent, so that it outlives s, and returns it. It panics when t belongs to another
// scope.
func (s *Scope) Keep(t *Tensor) *Tensor {
	t.handle("keep")
	if t.scope != s {
		panic(&Error{Op: "keep", Msg: "the tensor belongs to another scope"})
	}
	if s.parent == nil {
		panic(&Error{Op: "keep", Msg: "the scope has no parent"})
	}
	s.remove(t)
	if !s.parent.add(t) {
		panic(&Error{Op: "keep", Msg: "the parent scope is closed", Err: ErrFreed})
	}
	return t
}

// Device returns the device of new tensors.
func (s *Scope) Device() Device { return s.device }

// GradEnabled reports whether operators in this scope record gradients, or will when they run again: in a function that [Checkpoint] runs it
// is true both times, so that layers that choose their kernels by it compute the same values.
func (s *Scope) GradEnabled() bool { return s.mode == 0 || s.again }

// On is Run with a child scope that makes new tensors on dev.
func (s *Scope) On(dev Device, f func(s *Scope) error) error {
	if err := dev.Available(); err != nil {
		return err
	}
	c := s.child(0)
	c.device = dev
	return run(c, f)
}

// Close frees everything in the scope. Closing twice does nothing. No other goroutine may be in an operator with one of its
// tensors: wait for them first.
func (s *Scope) Close() {
	s.mu.Lock()
	tensors, generators := s.tensors, s.generators
	s.tensors, s.generators, s.closed = nil, nil, true
	s.mu.Unlock()
	var few [32]C.ct_tensor
	for len(tensors) > 0 {
		n := min(len(tensors), len(few))
		for i, t := range tensors[:n] {
			few[i] = t.h
			t.h = nil
		}
		C.ct_tensors_free(&few[0], C.int32_t(n))
		live.Add(-int64(n))
		tensors = tensors[n:]
	}
	for _, g := range generators {
		g.free()
	}
	if held.Load() > 0 {
		forgetCheckpoints()
	}
}

// add makes the scope own t. When the scope is closed it releases t and returns false.
func (s *Scope) add(t *Tensor) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		h := t.h
		t.h = nil
		C.ct_tensors_free(&h, 1)
		live.Add(-1)
		return false
	}
	t.scope, t.index = s, len(s.tensors)
	if s.tensors == nil {
		s.tensors = make([]*Tensor, 0, 8)
	}
	s.tensors = append(s.tensors, t)
	s.mu.Unlock()
	return true
}

func errClosed(op string) *Error {
	return &Error{Op: op, Msg: "a tensor was made in a scope that is closed", Err: ErrFreed}
}

// Closed reports whether the scope was closed, so that its tensors are gone.
func (s *Scope) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// remove takes t out of the scope without freeing it.
func (s *Scope) remove(t *Tensor) {
	s.mu.Lock()
	last := len(s.tensors) - 1
	moved := s.tensors[last]
	s.tensors[t.index] = moved
	moved.index = t.index
	s.tensors[last] = nil
	s.tensors = s.tensors[:last]
	s.mu.Unlock()
}
