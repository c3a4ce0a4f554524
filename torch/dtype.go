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

// IsFloat tells whether the type is a floating-point one, and so can carry gradients.
func (d DType) IsFloat() bool { return d <= BFloat16 }

// ParseDType returns the type with PyTorch's name, such as "bfloat16".
func ParseDType(name string) (DType, error) {
	for i, d := range dtypes {
		if d.name == name {
			return DType(i), nil
		}
	}
	return 0, fmt.Errorf("unknown dtype %q: want float32, float64, float16, bfloat16, int64, int32, uint8 or bool", name)
}

func (d DType) code() int64 { d.check(); return dtypes[d].code }

func (d DType) check() {
	if d < 0 || int(d) >= len(dtypes) {
		panic(&Error{Op: "dtype", Msg: fmt.Sprintf("there is no %s: want %s to %s", d, Float32, Bool)})
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
