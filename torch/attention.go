package torch

import "math"

// Attention over long sequences on the CPU, without gradients, is computed in blocks of rows whose products fit the cache, by oneDNN's
// matrix products in float32. libtorch's kernel takes 1.5 to 2 times as long, on processors for which MKL is slow, and longer in bfloat16.
const (
	longSequence = 256     // least number of rows and columns
	blockSize    = 1 << 20 // products per block
)

// byRows reports whether attention is computed in blocks.
func byRows(s *Scope, q, k, v *Tensor, o AttentionOptions) bool {
	if s.GradEnabled() || o.Mask != nil || o.Causal {
		return false
	}
	in := q.info("attention")
	if in.device().IsCUDA() || (in.dtype() != Float32 && in.dtype() != BFloat16) || in.ndim != 4 || !Packs(Float32) {
		return false
	}
	qs, ks, vs := in.shape(), k.Shape(), v.Shape()
	return len(ks) == 4 && len(vs) == 4 && qs[2] >= longSequence && ks[2] >= longSequence && k.DType() == in.dtype() && v.DType() == in.dtype() &&
		ks[0] == qs[0] && ks[1] == qs[1] && ks[3] == qs[3] && vs[0] == qs[0] && vs[1] == qs[1] && vs[2] == ks[2]
}

// attentionByRows is Attention for q [B, heads, L, D].
func attentionByRows(s *Scope, q, k, v *Tensor, scale float64) *Tensor {
	shape := q.Shape()
	batch, heads, length, dim := shape[0], shape[1], shape[2], v.Dim(3)
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(shape[3]))
	}
	rows := max(blockSize/k.Dim(2), 64)
	return s.Tidy(func(s *Scope) *Tensor {
		out := Empty(s, q.DType(), batch, length, heads, dim) // in the layout that the next layers read
		for b := range batch {
			for h := range heads {
				s.Tidy(func(s *Scope) *Tensor {
					head := func(t *Tensor) *Tensor { return t.Select(s, 0, b).Select(s, 0, h).To(s, Float32) }
					qh := head(q).MulScalar(s, scale)
					kh := head(k).Contiguous(s)
					vh := head(v).Transpose(s, 0, 1).Contiguous(s)
					to := out.Select(s, 0, b).Select(s, 1, h)
					for at := 0; at < length; at += rows {
						n := min(rows, length-at)
						s.Tidy(func(s *Scope) *Tensor {
							p := qh.Narrow(s, 0, at, n).PackedLinear(s, kh, nil).Softmax(s, 1)
							to.Narrow(s, 0, at, n).CopyFrom(s, p.PackedLinear(s, vh, nil))
							return nil
						})
					}
					return nil
				})
			}
		}
		return out.Transpose(s, 1, 2)
	})
}
