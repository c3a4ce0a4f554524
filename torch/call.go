package torch

/*
#cgo noescape ct_call
#cgo nocallback ct_call
#cgo noescape ct_call0
#cgo nocallback ct_call0
#cgo noescape ct_call1
#cgo nocallback ct_call1
#include <stdlib.h>
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"unsafe"
)

// op is an ATen operator used by the typed wrappers. It is looked up on first use.
type op struct {
	name, overload string
	found          atomic.Pointer[foundOp]
}

type foundOp struct{ h C.ct_op }

// wrapped lists the operators that have typed wrappers; tests check each against libtorch's schemas.
var wrapped []*op

// newOp declares an operator by its schema's name: "aten::add.Tensor".
func newOp(schema string) *op {
	o := &op{}
	o.name, o.overload, _ = strings.Cut(schema, ".")
	wrapped = append(wrapped, o)
	return o
}

func (o *op) String() string {
	if o.overload == "" {
		return o.name
	}
	return o.name + "." + o.overload
}

func (o *op) find() (C.ct_op, error) {
	if f := o.found.Load(); f != nil {
		return f.h, nil
	}
	if err := Open(); err != nil {
		return nil, &Error{Op: o.String(), Msg: err.Error(), Err: err}
	}
	name, overload := C.CString(o.name), C.CString(o.overload)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(overload))
	var h C.ct_op
	if e := C.ct_op_find(name, overload, &h); e != nil {
		return nil, o.missing(take(e, o.String()))
	}
	o.found.Store(&foundOp{h})
	return h, nil
}

// call collects the arguments of one operator call as words; see ct.h for their encoding.
type call struct {
	op   *op
	s    *Scope
	n    int
	few  [24]uint64
	more []uint64 // takes over when few is full
}

func (c *call) put(w uint64) {
	if c.more == nil {
		if c.n < len(c.few) {
			c.few[c.n] = w
			c.n++
			return
		}
		c.more = append(make([]uint64, 0, 4*len(c.few)), c.few[:]...)
	}
	c.more = append(c.more, w)
	c.n++
}

func (c *call) words() *C.uint64_t {
	if c.more != nil {
		return (*C.uint64_t)(&c.more[0])
	}
	return (*C.uint64_t)(&c.few[0])
}

func (c *call) list() []uint64 {
	if c.more != nil {
		return c.more
	}
	return c.few[:c.n]
}

func (c *call) t(x *Tensor) *call {
	if x == nil || x.h == nil {
		c.badOperand(x)
	}
	c.put(C.CT_TENSOR)
	c.put(uint64(uintptr(unsafe.Pointer(x.h))))
	return c
}

func (c *call) badOperand(x *Tensor) { x.handle(c.op.String()) }

// opt puts a tensor that may be nil (None).
func (c *call) opt(x *Tensor) *call {
	if x == nil {
		return c.none()
	}
	return c.t(x)
}

func (c *call) ts(xs []*Tensor) *call {
	c.put(C.CT_TENSOR_LIST | uint64(len(xs))<<8)
	for _, x := range xs {
		c.put(uint64(uintptr(unsafe.Pointer(x.handle(c.op.String())))))
	}
	return c
}

// optTs is a list of tensors in which nil stands for "none".
func (c *call) optTs(xs []*Tensor) *call {
	c.put(C.CT_TENSOR_LIST | uint64(len(xs))<<8)
	for _, x := range xs {
		if x == nil {
			c.put(0)
		} else {
			c.put(uint64(uintptr(unsafe.Pointer(x.handle(c.op.String())))))
		}
	}
	return c
}

func (c *call) none() *call { c.put(C.CT_NONE); return c }

// def uses the schema's default.
func (c *call) def() *call { c.put(C.CT_DEFAULT); return c }

func (c *call) int(v int) *call { c.put(C.CT_INT); c.put(uint64(v)); return c }

func (c *call) float(v float64) *call { c.put(C.CT_FLOAT); c.put(math.Float64bits(v)); return c }

// scalar puts a number for a Scalar argument. Whole numbers are passed as integers, so that integer tensors keep their dtype.
func (c *call) scalar(v float64) *call {
	if v == math.Trunc(v) && math.Abs(v) < 1<<63 && !(v == 0 && math.Signbit(v)) {
		return c.int(int(v))
	}
	return c.float(v)
}

func (c *call) bool(v bool) *call {
	c.put(C.CT_BOOL)
	if v {
		c.put(1)
	} else {
		c.put(0)
	}
	return c
}

func (c *call) ints(v []int) *call {
	c.put(C.CT_INT_LIST | uint64(len(v))<<8)
	for _, x := range v {
		c.put(uint64(x))
	}
	return c
}

// pair is int[2] with the same number twice.
func (c *call) pair(v int) *call {
	c.put(C.CT_INT_LIST | 2<<8)
	c.put(uint64(v))
	c.put(uint64(v))
	return c
}

func (c *call) floats(v []float64) *call {
	c.put(C.CT_FLOAT_LIST | uint64(len(v))<<8)
	for _, x := range v {
		c.put(math.Float64bits(x))
	}
	return c
}

func (c *call) bools(v []bool) *call {
	c.put(C.CT_BOOL_LIST | uint64(len(v))<<8)
	for _, x := range v {
		if x {
			c.put(1)
		} else {
			c.put(0)
		}
	}
	return c
}

func (c *call) str(v string) *call {
	c.put(C.CT_STRING | uint64(len(v))<<8)
	for i := 0; i < len(v); i += 8 {
		var w [8]byte
		copy(w[:], v[i:])
		c.put(*(*uint64)(unsafe.Pointer(&w)))
	}
	return c
}

func (c *call) dtype(d DType) *call { return c.int(int(d.code())) }

func (c *call) device(d Device) *call { c.put(C.CT_DEVICE); c.put(uint64(d.code())); return c }

// options is the tail of factory functions: dtype, layout, device, pin_memory.
func (c *call) options(d DType) *call { return c.dtype(d).none().device(c.s.device).none() }

func (c *call) gen(g *Generator) *call {
	if g == nil {
		panic(&Error{Op: c.op.String(), Msg: "the generator is nil: pass one made with NewGenerator"})
	}
	c.put(C.CT_GENERATOR)
	c.put(uint64(uintptr(unsafe.Pointer(g.handle(c.op.String())))))
	return c
}

// one runs an operator with one tensor as its result.
func (c *call) one() *Tensor {
	h := c.op.handle()
	var out C.ct_tensor
	if e := C.ct_call1(h, C.uint32_t(c.s.mode), c.words(), C.int32_t(c.n), &out); e != nil {
		c.fail(e)
	}
	return c.op.result(c.s, out)
}

// zero runs an operator and drops its results.
func (c *call) zero() {
	h := c.op.handle()
	if e := C.ct_call0(h, C.uint32_t(c.s.mode), c.words(), C.int32_t(c.n)); e != nil {
		c.fail(e)
	}
}

// many runs an operator whose results are tensors or lists of them, and returns all in order.
func (c *call) many() []*Tensor {
	var out []*Tensor
	for _, v := range c.results() {
		switch v := v.(type) {
		case *Tensor:
			out = append(out, v)
		case []*Tensor:
			out = append(out, v...)
		case nil:
			out = append(out, nil)
		}
	}
	return out
}

// results runs the operator and returns its results.
func (c *call) results() []any {
	if c.s.Closed() { // checked first: results after the first would not be released
		panic(errClosed(c.op.String()))
	}
	h := c.op.handle()
	var outs [32]C.uint64_t
	var n C.int32_t
	if e := C.ct_call(h, C.uint32_t(c.s.mode), c.words(), C.int32_t(c.n), &outs[0], C.int32_t(len(outs)), &n); e != nil {
		c.fail(e)
	}
	w := outs[:max(n, 0)]
	if n < 0 {
		p := *(*unsafe.Pointer)(unsafe.Pointer(&outs[0])) // the address of C memory, which does not move
		defer C.ct_buffer_free(p)
		w = unsafe.Slice((*C.uint64_t)(p), -n)
	}
	return c.decode(w)
}

func (c *call) decode(w []C.uint64_t) []any {
	var out []any
	for len(w) > 0 {
		tag, count := w[0]&0xff, int(w[0]>>8)
		w = w[1:]
		switch tag {
		case C.CT_NONE:
			out = append(out, nil)
		case C.CT_TENSOR:
			out = append(out, c.op.result(c.s, handleOf(w[0])))
			w = w[1:]
		case C.CT_TENSOR_LIST:
			list := make([]*Tensor, count)
			for i := range list {
				if w[i] != 0 {
					list[i] = c.op.result(c.s, handleOf(w[i]))
				}
			}
			out, w = append(out, list), w[count:]
		case C.CT_INT:
			out, w = append(out, int(w[0])), w[1:]
		case C.CT_FLOAT:
			out, w = append(out, math.Float64frombits(uint64(w[0]))), w[1:]
		case C.CT_BOOL:
			out, w = append(out, w[0] != 0), w[1:]
		default:
			panic(&Error{Op: c.op.String(), Msg: fmt.Sprintf("unknown result tag %d", tag)})
		}
	}
	return out
}

// handleOf turns a word back into a C handle. The word is the address of C memory, which Go's collector never moves.
func handleOf(w C.uint64_t) C.ct_tensor { return *(*C.ct_tensor)(unsafe.Pointer(&w)) }

// fail panics with the error, naming the operands.
func (c *call) fail(e *C.ct_error) {
	err := take(e, c.op.String())
	var shapes []string
	w := c.list()
	for i := 0; i < len(w); {
		tag, count := w[i]&0xff, int(w[i]>>8)
		i++
		switch tag {
		case C.CT_TENSOR:
			shapes = append(shapes, describeHandle(handleOf(C.uint64_t(w[i]))))
			i++
		case C.CT_TENSOR_LIST:
			for j, h := range w[i : i+count] {
				if j == 4 && count > 5 {
					shapes = append(shapes, fmt.Sprintf("… %d more", count-j))
					break
				}
				if h != 0 {
					shapes = append(shapes, describeHandle(handleOf(C.uint64_t(h))))
				}
			}
			i += count
		case C.CT_INT_LIST, C.CT_FLOAT_LIST, C.CT_BOOL_LIST:
			i += count
		case C.CT_STRING:
			i += (count + 7) / 8
		case C.CT_NONE, C.CT_DEFAULT:
		default:
			i++
		}
	}
	err.Shapes = strings.Join(shapes, ", ")
	panic(err)
}

// MemoryFormat is how a tensor's dimensions are laid out in memory, as an argument of [Call].
type MemoryFormat int8

// The memory formats of tensors.
const (
	ContiguousFormat MemoryFormat = 0
	PreserveFormat   MemoryFormat = 1
	ChannelsLast     MemoryFormat = 2
)
