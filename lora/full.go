package lora

import (
	"slices"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// fullRank is a delta that is not a plain low-rank product, or that depends on the weight.
type fullRank struct {
	change  func(s *torch.Scope, d torch.DType) *torch.Tensor // of type d, in any shape of as many elements
	lengths *torch.Tensor                                     // of DoRA; nil: none
	outputs bool                                              // magnitudes of shape [1, n, …] belong to the outputs, as in PEFT
	scale   float64
	of      []*torch.Tensor // the tensors it is computed from
}

// Closed reports whether its tensors were freed.
func (a *fullRank) Closed() bool { return slices.ContainsFunc(a.of, (*torch.Tensor).Freed) }

// Version counts in-place modifications of its tensors.
func (a *fullRank) Version() (n int) {
	for _, t := range a.of {
		n += t.Version()
	}
	return n
}

// AddTo implements nn.Adapter.
func (a *fullRank) AddTo(s *torch.Scope, sum, w *torch.Tensor) {
	s.Tidy(func(s *torch.Scope) *torch.Tensor {
		d := sum.DType()
		delta := a.change(s, d).Reshape(s, w.Shape()...)
		if a.lengths == nil {
			sum.AddScaledInPlace(s, delta, a.scale)
			return nil
		}
		// W' = m·V/‖V‖ for V = W + scale·ΔW (Liu et al. 2024, equation 5).
		base := w.To(s, d)
		v := base.Add(s, delta.MulScalar(s, a.scale))
		v = v.Mul(s, a.lengths.To(s, d).Reshape(s, a.along(w)...).Div(s, norms(s, v, a.axis(w)).ClampMin(s, least)))
		sum.AddInPlace(s, v.Sub(s, base))
		return nil
	})
}

const least = 1e-30 // smallest divisor of a norm

// axis returns the dimension of the weight that the magnitudes belong to: 0, the outputs, or 1, as in some files of LyCORIS.
func (a *fullRank) axis(w *torch.Tensor) int {
	if shape := a.lengths.Shape(); !a.outputs && len(shape) > 1 && shape[0] == 1 && shape[1] == w.Dim(1) && w.Dim(0) != 1 {
		return 1
	}
	return 0
}

// along returns the shape in which the magnitudes broadcast over the weight.
func (a *fullRank) along(w *torch.Tensor) []int {
	shape := make([]int, w.NDim())
	for i := range shape {
		shape[i] = 1
	}
	shape[a.axis(w)] = a.lengths.NumEl()
	return shape
}

// norms returns the norms of a weight's slices along a dimension, in a shape that broadcasts over it.
func norms(s *torch.Scope, v *torch.Tensor, axis int) *torch.Tensor {
	var dims []int
	for i := range v.NDim() {
		if i != axis {
			dims = append(dims, i)
		}
	}
	return v.Square(s).SumDim(s, true, dims...).Sqrt(s)
}

// full binds a module's tensors below the path, and returns the function that computes its delta.
func (p pair) full(path nn.Path) (change func(s *torch.Scope, d torch.DType) *torch.Tensor, of []*torch.Tensor) {
	bound := map[role]*torch.Tensor{}
	for _, r := range p.order {
		if r != alpha && r != magnitude && r != diffBias {
			bound[r] = path.Param(string(r), nil, p.shapes[r]...)
			of = append(of, bound[r])
		}
	}
	get := func(s *torch.Scope, r role, d torch.DType) *torch.Tensor { return bound[r].To(s, d) }
	matrix := func(s *torch.Scope, r role, d torch.DType) *torch.Tensor { return get(s, r, d).Flatten(s, 1, -1) }
	// either is a tensor, the product of two, or the product around a kernel.
	either := func(s *torch.Scope, whole, a, b, t role, d torch.DType) *torch.Tensor {
		switch {
		case bound[whole] != nil:
			return get(s, whole, d)
		case bound[t] != nil:
			return tucker(s, get(s, t, d), matrix(s, a, d), matrix(s, b, d))
		}
		return matrix(s, a, d).MatMul(s, matrix(s, b, d))
	}
	switch p.Kind {
	case Difference:
		change = func(s *torch.Scope, d torch.DType) *torch.Tensor { return get(s, diff, d) }
	case Tucker:
		change = func(s *torch.Scope, d torch.DType) *torch.Tensor {
			return tucker(s, get(s, mid, d), matrix(s, up, d).Transpose(s, 0, 1), matrix(s, down, d))
		}
	case Hadamard:
		change = func(s *torch.Scope, d torch.DType) *torch.Tensor {
			return either(s, "", "hada_w1_a", "hada_w1_b", "hada_t1", d).Mul(s, either(s, "", "hada_w2_a", "hada_w2_b", "hada_t2", d))
		}
	default:
		out, in := p.spot.shape[0], p.spot.shape[1]
		change = func(s *torch.Scope, d torch.DType) *torch.Tensor {
			one := either(s, "lokr_w1", "lokr_w1_a", "lokr_w1_b", "", d)
			two := either(s, "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", d)
			rows, cols := out/one.Dim(0), in/one.Dim(1)
			return one.Reshape(s, one.Dim(0), 1, one.Dim(1), 1, 1).Mul(s, two.Reshape(s, 1, rows, 1, cols, -1))
		}
	}
	return change, of
}

// tucker returns Σ t[i, j, …]·a[i, p]·b[j, q] as [p, q, …], flat from the third dimension on.
func tucker(s *torch.Scope, t, a, b *torch.Tensor) *torch.Tensor {
	i, j := t.Dim(0), t.Dim(1)
	left := a.Transpose(s, 0, 1).MatMul(s, t.Reshape(s, i, -1)).Reshape(s, a.Dim(1), j, -1) // [p, j, k]
	return left.Transpose(s, 1, 2).MatMul(s, b).Transpose(s, 1, 2)                          // [p, k, j]·[j, q], turned
}
