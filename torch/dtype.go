package torch

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
)

// DType is the type of a tensor's elements. Its zero value is Float32.
type DType int8

// The element types of tensors.
const (
	Float32 DType = iota
	Float64
	Float16
	BFloat16
	Int64
	Int32
	Uint8
	Bool
	Float8E4M3 // float8_e4m3fn: for storing weights; converted to another dtype to compute
	Float8E5M2 // float8_e5m2, likewise
)

var dtypes = [...]struct {
	name string
	code int64 // c10::ScalarType
	size int   // bytes
}{
	Float32:  {"float32", 6, 4},
	Float64:  {"float64", 7, 8},
	Float16:  {"float16", 5, 2},
	BFloat16: {"bfloat16", 15, 2},
	Int64:    {"int64", 4, 8},
	Int32:    {"int32", 3, 4},
	Uint8:    {"uint8", 0, 1},
	Bool:     {"bool", 11, 1},

	Float8E4M3: {"float8_e4m3fn", 24, 1},
	Float8E5M2: {"float8_e5m2", 23, 1},
}

// String returns PyTorch's name of the type, such as "float32".
func (d DType) String() string {
	if d < 0 || int(d) >= len(dtypes) {
		return fmt.Sprintf("dtype(%d)", int8(d))
	}
	return dtypes[d].name
}

// Size returns the bytes of one element.
func (d DType) Size() int { d.check(); return dtypes[d].size }

// IsFloat reports whether the type is a floating-point type that operators compute in, and so can carry gradients.
func (d DType) IsFloat() bool { return d <= BFloat16 }

// IsFloat8 reports whether the type is an 8-bit floating-point type. [Tensor.To] converts it; few other operators support it.
func (d DType) IsFloat8() bool { return d == Float8E4M3 || d == Float8E5M2 }

// ParseDType returns the type with PyTorch's name, such as "bfloat16".
func ParseDType(name string) (DType, error) {
	for i, d := range dtypes {
		if d.name == name {
			return DType(i), nil
		}
	}
	return 0, fmt.Errorf("unknown dtype %s: want float32, float64, float16, bfloat16, int64, int32, uint8, bool, float8_e4m3fn or float8_e5m2", quote.Quoted(name))
}

// Scalar types of libtorch (c10::ScalarType) without a DType; results of torch.Call may have them.
const (
	scalarInt8       = 1
	scalarInt16      = 2
	scalarComplex32  = 8
	scalarComplex64  = 9
	scalarComplex128 = 10
	scalarBool       = 11
	scalarUint16     = 27
	scalarUint32     = 28
	scalarUint64     = 29
)

var scalarNames = map[int64]string{
	scalarInt8: "int8", scalarInt16: "int16", scalarUint16: "uint16", scalarUint32: "uint32", scalarUint64: "uint64",
	scalarComplex32: "complex32", scalarComplex64: "complex64", scalarComplex128: "complex128",
}

// scalarName returns PyTorch's name of a scalar type, also of one without a DType.
func scalarName(code int64) string {
	for _, d := range dtypes {
		if d.code == code {
			return d.name
		}
	}
	if name := scalarNames[code]; name != "" {
		return name
	}
	return fmt.Sprintf("scalar type %d", code)
}

// whole reports whether the elements of a scalar type are integers.
func whole(code int64) bool {
	switch code {
	case scalarInt8, scalarInt16, scalarUint16, scalarUint32, scalarUint64, Int64.code(), Int32.code(), Uint8.code():
		return true
	}
	return false
}

func (d DType) code() int64 { d.check(); return dtypes[d].code }

func (d DType) check() {
	if d < 0 || int(d) >= len(dtypes) {
		panic(&Error{Op: "dtype", Msg: fmt.Sprintf("there is no %s: want %s to %s", d, Float32, Float8E5M2)})
	}
}

func dtypeOf(code int64) DType {
	for i, d := range dtypes {
		if d.code == code {
			return DType(i)
		}
	}
	panic(&Error{Op: "dtype", Msg: fmt.Sprintf("dtype %s is not supported: convert the tensor with To first", scalarName(code))})
}
