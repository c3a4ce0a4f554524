package torch

// #include "../csrc/ct.h"
import "C"

import (
	"sync"
	"sync/atomic"
)

var (
	opNormSiLU = newOp("onestep::norm_silu")
	opConv3x3  = newOp("onestep::conv3x3")
)

var plain atomic.Bool

// SetFused turns this library's own kernels that do the work of several operators on or off, for the process; they are on by default. Off,
// libtorch's operators are called one by one: slower, with more memory, and the same results but for rounding. It is for comparisons.
func SetFused(on bool) { plain.Store(!on) }

// Fused reports whether they are on, and made for this processor: by compilers other than GCC and for processors without AVX2 they are not.
func Fused() bool { return !plain.Load() && kernels() != 0 }

// FusedConv reports whether [Tensor.Conv3x3] has kernels for images of type d on this processor, and they are on. In bfloat16 processors with AMX
// are faster without.
func FusedConv(d DType) bool {
	return Fused() && (d == Float32 || d == BFloat16 && kernels()&2 != 0)
}

// kernels are the flags of ct_has_kernels.
var kernels = sync.OnceValue(func() int {
	if Open() != nil {
		return 0
	}
	return int(C.ct_has_kernels())
})

// GroupNormSiLU is [Tensor.GroupNorm] followed by [Tensor.SiLU], in one operator on the CPU that keeps only t for the backward pass. For
// t in bfloat16, w and b may be in float32. Sums and statistics are computed in float32 at least.
func (t *Tensor) GroupNormSiLU(s *Scope, groups int, w, b *Tensor, eps float64) *Tensor {
	if w == nil || b == nil || plain.Load() {
		return s.Tidy(func(s *Scope) *Tensor { return t.GroupNorm(s, groups, w, b, eps).SiLU(s) })
	}
	c := call{op: opNormSiLU, s: s}
	return c.t(t).t(w).t(b).int(groups).float(eps).one()
}

// Conv3x3 is [Tensor.Conv2D] with padding 1 for w [out, in, 3, 3], by Winograd's formula where this library has kernels for it: on the CPU in
// float32 and bfloat16, for t in channels-last order and multiples of 16 channels. That takes a third to a half of the time. In float32 it rounds five
// times as much as the plain sum, 1e-6 of the results' root mean square. For t in bfloat16, w and b may be in float32; they are not rounded,
// and the results' error is little more than their own rounding. The backward pass keeps t and w only. Anything else goes to Conv2D.
func (t *Tensor) Conv3x3(s *Scope, w, b *Tensor) *Tensor {
	if plain.Load() {
		return s.Tidy(func(s *Scope) *Tensor {
			if b != nil {
				b = b.To(s, t.DType())
			}
			return t.Conv2D(s, w.To(s, t.DType()), b, Conv2DOptions{Padding: 1})
		})
	}
	c := call{op: opConv3x3, s: s}
	return c.t(t).t(w).opt(b).one()
}
