package safetensors

import (
	"math"
	"slices"
)

// DType is the format's name of an element type, such as "F32".
type DType string

// The element types with a dtype in package torch. Files may hold others; [DType.Bits] has their sizes.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	U8   DType = "U8"
	Bool DType = "BOOL"

	F8E4M3 DType = "F8_E4M3"
	F8E5M2 DType = "F8_E5M2"
)

// layout lists every element type of the format in the order in which the reference implementation lays tensors out:
// by decreasing alignment, so that a file whose data section is aligned has only aligned tensors.
var layout = []struct {
	dtype DType
	bits  int
}{
	{"U64", 64},
	{I64, 64},
	{F64, 64},
	{"C64", 64},
	{F32, 32},
	{"U32", 32},
	{I32, 32},
	{BF16, 16},
	{F16, 16},
	{"U16", 16},
	{"I16", 16},
	{"F8_E5M2FNUZ", 8},
	{"F8_E4M3FNUZ", 8},
	{"F8_E8M0", 8},
	{F8E4M3, 8},
	{F8E5M2, 8},
	{"I8", 8},
	{U8, 8},
	{"F6_E3M2", 6},
	{"F6_E2M3", 6},
	{"F4", 4},
	{Bool, 8},
}

// rank returns the type's index in layout, or -1 for an unknown type.
func (d DType) rank() int {
	for i := range layout {
		if layout[i].dtype == d {
			return i
		}
	}
	return -1
}

// Bits returns the size of one element in bits, or 0 for an unknown type. Only the F4 and F6 types, which package torch
// does not have, are not whole bytes.
func (d DType) Bits() int {
	if i := d.rank(); i >= 0 {
		return layout[i].bits
	}
	return 0
}

// bytesOf returns the size in bytes of a tensor of a known type and non-negative dimensions. It fails when the size overflows or is not a
// whole number of bytes. A dimension of 0 does not exempt the others from the overflow check, because strides are computed from them.
func (d DType) bytesOf(shape []int) (int, bool) {
	bits := d.Bits()
	n := 1
	for _, v := range shape {
		if v > 1 {
			if n > math.MaxInt/v {
				return 0, false
			}
			n *= v
		}
	}
	if n > math.MaxInt/bits {
		return 0, false
	}
	if slices.Contains(shape, 0) {
		n = 0
	}
	return n * bits / 8, n*bits%8 == 0
}
