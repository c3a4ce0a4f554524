package torch

import (
	"encoding/binary"
	"math"
)

// Element reads one element of this type, little-endian as in files, from the beginning of b. Int64 values beyond 2⁵³ are rounded. It does
// not need libtorch.
func (d DType) Element(b []byte) float64 {
	switch d {
	case Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case Float64:
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	case Float16:
		return small(uint32(binary.LittleEndian.Uint16(b)), 5, 10, true)
	case BFloat16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
	case Float8E4M3:
		return small(uint32(b[0]), 4, 3, false)
	case Float8E5M2:
		return small(uint32(b[0]), 5, 2, true)
	case Int64:
		return float64(int64(binary.LittleEndian.Uint64(b)))
	case Int32:
		return float64(int32(binary.LittleEndian.Uint32(b)))
	default: // Uint8, Bool
		return float64(b[0])
	}
}

// small decodes a floating-point number of a sign, an exponent and a fraction. With infinities, the largest exponent encodes them and NaN;
// without, only all ones are NaN.
func small(bits uint32, exponent, fraction int, infinities bool) float64 {
	sign := 1.0
	if bits>>(exponent+fraction)&1 == 1 {
		sign = -1
	}
	most := uint32(1)<<exponent - 1
	e, f := bits>>fraction&most, bits&(1<<fraction-1)
	bias := 1<<(exponent-1) - 1
	switch {
	case e == most && infinities && f == 0:
		return sign * math.Inf(1)
	case e == most && (infinities || f == 1<<fraction-1):
		return math.NaN()
	case e == 0:
		return sign * math.Ldexp(float64(f), 1-bias-fraction)
	}
	return sign * math.Ldexp(float64(f|1<<fraction), int(e)-bias-fraction)
}
