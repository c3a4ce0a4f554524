package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"errors"
	"strings"
)

// ErrOutOfMemory is wrapped by an [Error] when host or device memory ran out.
var ErrOutOfMemory = errors.New("out of memory")

// ErrFreed is wrapped by an [Error] when a tensor was used after it was freed.
var ErrFreed = errors.New("tensor was freed")

// Error is the panic value of operators and the error of [Run]: the operation that failed, its operands, and the reason.
type Error struct {
	Op     string // the operator, such as "aten::add.Tensor"
	Msg    string // libtorch's or our own message
	Shapes string // dtypes and shapes of the operands, such as "float32[2, 3], int64[3]"; empty without operands
	Err    error  // a sentinel such as ErrOutOfMemory, or nil

	unfit bool // the arguments do not match the operator's schema
}

// Error returns the operation, its message and its operands in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strings.TrimPrefix(e.Op, "aten::"))
	b.WriteString(": ")
	b.WriteString(e.Msg)
	if e.Shapes != "" {
		b.WriteString(" (operands: ")
		b.WriteString(e.Shapes)
		b.WriteString(")")
	}
	return b.String()
}

// Unwrap returns the sentinel behind the error.
func (e *Error) Unwrap() error { return e.Err }

// take turns a C error into an *Error and releases it. It must only be called with a non-nil e.
func take(e *C.ct_error, op string) *Error {
	out := &Error{Op: op, Msg: strings.TrimSpace(C.GoString(e.msg))}
	switch e.kind {
	case C.CT_ERR_ARGUMENT:
		out.unfit = true
	case C.CT_ERR_OUT_OF_MEMORY:
		out.Err = ErrOutOfMemory
	case C.CT_ERR_NOT_IMPLEMENTED:
		// A list of sixty available kernels follows.
		out.Msg, _, _ = strings.Cut(out.Msg, " This could be because")
		if !cudaOpened && strings.Contains(out.Msg, "'CUDA'") {
			out.Msg += " CUDA is not in use: " + cudaReason
		}
	}
	C.ct_error_free(e)
	return out
}
