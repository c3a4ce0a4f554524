package torch

/*
#cgo noescape ct_tensor_info
#cgo nocallback ct_tensor_info
#cgo noescape ct_tensor_item
#cgo nocallback ct_tensor_item
#cgo noescape ct_tensor_item_int
#cgo nocallback ct_tensor_item_int
#cgo noescape ct_tensor_from_host
#cgo nocallback ct_tensor_from_host
#cgo noescape ct_tensor_to_host
#cgo nocallback ct_tensor_to_host
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"unsafe"
)

// Tensor is a handle to an n-dimensional array on the CPU or a GPU. It is owned by a [Scope]. Two handles may share
// memory (views do, and operators that return their input).
type Tensor struct {
	h     C.ct_tensor // nil when freed
	scope *Scope
	index int // in scope.tensors
}

// Element is a Go type that tensors can be made from and copied to.
type Element interface {
	float32 | float64 | int64 | int32 | uint8 | bool
}

// newTensor wraps a handle that op returned in a tensor owned by s.
func newTensor(s *Scope, h C.ct_tensor, op string) *Tensor {
	live.Add(1)
	t := &Tensor{h: h}
	if !s.add(t) {
		panic(errClosed(op))
	}
	return t
}

// Free releases the tensor before its scope closes. Freeing twice does nothing.
func (t *Tensor) Free() {
	if t == nil || t.h == nil {
		return
	}
	t.scope.remove(t)
	h := t.h
	t.h = nil
	C.ct_tensors_free(&h, 1)
	live.Add(-1)
}

// Freed reports whether the tensor was freed, by Free or with its scope.
func (t *Tensor) Freed() bool { return t == nil || t.h == nil }

// handle returns the C handle; it panics when the tensor is nil or freed.
func (t *Tensor) handle(op string) C.ct_tensor {
	if t == nil {
		panic(&Error{Op: op, Msg: "an operand is nil"})
	}
	if t.h == nil {
		panic(&Error{Op: op, Msg: "an operand was freed (by Free, or when its scope closed)", Err: ErrFreed})
	}
	return t.h
}

// handleFor is handle without the cost of naming the operator when nothing is wrong.
func (t *Tensor) handleFor(o *op) C.ct_tensor {
	if t == nil || t.h == nil {
		return t.handle(o.String())
	}
	return t.h
}

// Share returns another handle to the same tensor, owned by s: gradients, memory and identity are the same.
func (t *Tensor) Share(s *Scope) *Tensor {
	return newTensor(s, C.ct_tensor_share(t.handle("share")), "share")
}

const maxDims = 64 // libtorch's own limit for most kernels

// info is a tensor's metadata; see ct_tensor_info.
type info struct {
	words [6 + 2*maxDims]C.int64_t
	ndim  int
}

func (t *Tensor) info(op string) (in info) {
	var ndim C.int32_t
	if e := C.ct_tensor_info(t.handle(op), &in.words[0], C.int32_t(len(in.words)), &ndim); e != nil {
		panic(take(e, op))
	}
	in.ndim = int(ndim)
	if in.ndim > maxDims {
		panic(&Error{Op: op, Msg: fmt.Sprintf("the tensor has %d dimensions, want at most %d", in.ndim, maxDims)})
	}
	return in
}

func (in *info) dtype() DType   { return dtypeOf(int64(in.words[0])) }
func (in *info) device() Device { return deviceOf(int64(in.words[1])) }
func (in *info) flags() int64   { return int64(in.words[5]) }
func (in *info) shape() []int   { return ints(in.words[6 : 6+in.ndim]) }
func (in *info) strides() []int { return ints(in.words[6+in.ndim : 6+2*in.ndim]) }

func ints(w []C.int64_t) []int {
	out := make([]int, len(w))
	for i, v := range w {
		out[i] = int(v)
	}
	return out
}

// Shape returns the sizes of the tensor's dimensions; empty for a scalar.
func (t *Tensor) Shape() []int { in := t.info("shape"); return in.shape() }

// Strides returns, for each dimension, the distance of neighbours in elements.
func (t *Tensor) Strides() []int { in := t.info("strides"); return in.strides() }

// Dim returns the size of dimension i; negative i counts from the last. It panics when there is no such dimension.
func (t *Tensor) Dim(i int) int {
	in := t.info("dim")
	if i < -in.ndim || i >= in.ndim {
		panic(&Error{Op: "dim", Msg: fmt.Sprintf("no dimension %d", i), Shapes: describe(t)})
	}
	if i < 0 {
		i += in.ndim
	}
	return int(in.words[6+i])
}

// NDim returns the number of dimensions.
func (t *Tensor) NDim() int { in := t.info("ndim"); return in.ndim }

// NumEl returns the number of elements.
func (t *Tensor) NumEl() int { in := t.info("numel"); return int(in.words[3]) }

// DType returns the type of the elements.
func (t *Tensor) DType() DType { in := t.info("dtype"); return in.dtype() }

// Device returns the device of the tensor.
func (t *Tensor) Device() Device { in := t.info("device"); return in.device() }

// IsContiguous reports whether the elements lie in memory in the order of their indices, without gaps.
func (t *Tensor) IsContiguous() bool {
	in := t.info("is_contiguous")
	return in.flags()&C.CT_CONTIGUOUS != 0
}

// IsChannelsLast reports whether a [B, C, H, W] tensor lies in memory as B, H, W, C.
func (t *Tensor) IsChannelsLast() bool {
	in := t.info("is_channels_last")
	return in.flags()&C.CT_CHANNELS_LAST != 0
}

// IsChannelsLastOnly reports whether a [B, C, H, W] tensor lies in memory as B, H, W, C and not also as B, C, H, W. Images of one channel or
// of one pixel are in both orders.
func (t *Tensor) IsChannelsLastOnly() bool {
	in := t.info("is_channels_last_only")
	return in.flags()&(C.CT_CHANNELS_LAST|C.CT_CONTIGUOUS) == C.CT_CHANNELS_LAST
}

// describe names dtypes and shapes, for errors: "float32[2, 3], int64[3] on cuda:0".
func describe(ts ...*Tensor) string {
	parts := make([]string, 0, len(ts))
	for _, t := range ts {
		if t == nil || t.h == nil {
			parts = append(parts, "none")
			continue
		}
		parts = append(parts, describeHandle(t.h))
	}
	return strings.Join(parts, ", ")
}

// describeHandle never fails: it is used while an error is being reported.
func describeHandle(h C.ct_tensor) string {
	var in info
	var ndim C.int32_t
	if e := C.ct_tensor_info(h, &in.words[0], C.int32_t(len(in.words)), &ndim); e != nil {
		C.ct_error_free(e)
		return "unknown"
	}
	if ndim > maxDims {
		return fmt.Sprintf("a tensor of %d dimensions", ndim)
	}
	in.ndim = int(ndim)
	out := scalarName(int64(in.words[0])) + strings.ReplaceAll(fmt.Sprint(in.shape()), " ", ", ")
	if dev := in.device(); dev != CPU {
		out += " on " + dev.String()
	}
	return out
}

// Item returns the only element as a float64. It panics unless there is exactly one. On a GPU it waits for the result.
func (t *Tensor) Item() float64 {
	t.scope.moves("item")
	var v C.double
	if e := C.ct_tensor_item(t.handle("item"), &v); e != nil {
		panic(t.failed(e, "item"))
	}
	return float64(v)
}

// Int returns the only element as an int. It panics unless there is exactly one. On a GPU it waits for the result.
func (t *Tensor) Int() int {
	t.scope.moves("int")
	var v C.int64_t
	if e := C.ct_tensor_item_int(t.handle("int"), &v); e != nil {
		panic(t.failed(e, "int"))
	}
	return int(v)
}

func (t *Tensor) failed(e *C.ct_error, op string) *Error {
	err := take(e, op)
	err.Shapes = describe(t)
	return err
}

func elementType[T Element]() DType {
	var z T
	switch any(z).(type) {
	case float32:
		return Float32
	case float64:
		return Float64
	case int64:
		return Int64
	case int32:
		return Int32
	case uint8:
		return Uint8
	default:
		return Bool
	}
}

// FromSlice copies data into a new tensor of that shape on the scope's device; without a shape it is one-dimensional.
// It panics unless the shape has len(data) elements.
func FromSlice[T Element](s *Scope, data []T, shape ...int) *Tensor {
	if len(shape) == 0 {
		shape = []int{len(data)}
	}
	d := elementType[T]()
	t := fromBytes(s, unsafe.Pointer(unsafe.SliceData(data)), len(data), d, shape)
	return t
}

// Scalar makes a 0-dimensional tensor.
func Scalar[T Element](s *Scope, v T) *Tensor {
	return fromBytes(s, unsafe.Pointer(&v), 1, elementType[T](), nil)
}

func fromBytes(s *Scope, p unsafe.Pointer, count int, d DType, shape []int) *Tensor {
	mustOpen("from_slice")
	s.moves("from_slice")
	sizes, n := sizesOf("from_slice", shape)
	if n != count {
		panic(&Error{Op: "from_slice", Msg: fmt.Sprintf("shape %v holds %d elements, the data has %d", shape, n, count)})
	}
	var h C.ct_tensor
	var at *C.int64_t
	if len(sizes) > 0 {
		at = &sizes[0]
	}
	if e := C.ct_tensor_from_host(p, C.int64_t(count*d.Size()), at, C.int32_t(len(sizes)), C.int32_t(d.code()), C.int32_t(s.device.code()), &h); e != nil {
		panic(take(e, "from_slice"))
	}
	return newTensor(s, h, "from_slice")
}

// sizesOf checks a shape and returns it with its number of elements.
func sizesOf(op string, shape []int) ([]C.int64_t, int) {
	n := 1
	sizes := make([]C.int64_t, len(shape))
	for i, v := range shape {
		if v < 0 || (v > 0 && n > (1<<62)/v) {
			panic(&Error{Op: op, Msg: fmt.Sprintf("invalid shape %v", shape)})
		}
		n *= v
		sizes[i] = C.int64_t(v)
	}
	return sizes, n
}

// ToSlice copies the elements to the host, in the order of their indices. T must be the Go type of the tensor's dtype
// (convert with To first); it panics otherwise.
func ToSlice[T Element](t *Tensor) []T {
	d := elementType[T]()
	in := t.info("to_slice")
	if in.dtype() != d {
		panic(&Error{Op: "to_slice", Msg: fmt.Sprintf("want %s, got %s: convert with To first", d, in.dtype()), Shapes: describe(t)})
	}
	out := make([]T, int(in.words[3]))
	if len(out) == 0 {
		return out
	}
	t.copyToHost(unsafe.Pointer(&out[0]), len(out)*d.Size(), &in)
	return out
}

// NumBytes is the size of the elements in bytes.
func (t *Tensor) NumBytes() int64 { return int64(t.NumEl() * t.DType().Size()) }

// Bytes copies the raw bytes of the elements to the host, in the order of their indices.
func (t *Tensor) Bytes() []byte {
	in := t.info("bytes")
	out := make([]byte, int(in.words[3]*in.words[4]))
	if len(out) > 0 {
		t.copyToHost(unsafe.Pointer(&out[0]), len(out), &in)
	}
	return out
}

func (t *Tensor) copyToHost(p unsafe.Pointer, n int, in *info) {
	t.scope.moves("to_slice")
	src := t
	if in.device() != CPU || in.flags()&C.CT_CONTIGUOUS == 0 {
		s := NewScope(CPU)
		defer s.Close()
		s.mode = C.CT_NO_GRAD
		src = t.ToDevice(s, CPU).Contiguous(s)
	}
	if e := C.ct_tensor_to_host(src.handle("to_slice"), p, C.int64_t(n)); e != nil {
		panic(t.failed(e, "to_slice"))
	}
}

// FromBytes copies raw elements of type d, in the order of their indices, into a new tensor on the scope's device.
func FromBytes(s *Scope, data []byte, d DType, shape ...int) *Tensor {
	if len(data)%d.Size() != 0 {
		panic(&Error{Op: "from_bytes", Msg: fmt.Sprintf("%d bytes is not a whole number of %s elements", len(data), d)})
	}
	return fromBytes(s, unsafe.Pointer(unsafe.SliceData(data)), len(data)/d.Size(), d, shape)
}
