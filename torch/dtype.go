package torch

import "fmt"

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
	Float8E4M3 // float8_e4m3fn: weights are stored in it, and converted to another type to compute with
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

// IsFloat tells whether the type is a floating-point one that can be computed with, and so can carry gradients.
func (d DType) IsFloat() bool { return d <= BFloat16 }

// IsFloat8 tells whether the type is one of 8-bit floating point, which [Tensor.To] converts and few operators know.
func (d DType) IsFloat8() bool { return d == Float8E4M3 || d == Float8E5M2 }

// ParseDType returns the type with PyTorch's name, such as "bfloat16".
func ParseDType(name string) (DType, error) {
	for i, d := range dtypes {
		if d.name == name {
			return DType(i), nil
		}
	}
	return 0, fmt.Errorf("unknown dtype %q: want float32, float64, float16, bfloat16, int64, int32, uint8, bool, float8_e4m3fn or float8_e5m2", name)
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
	panic(&Error{Op: "dtype", Msg: fmt.Sprintf("libtorch's scalar type %d has no counterpart here", code)})
}
