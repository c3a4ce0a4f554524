package lora

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// The roles of adapters that rotate the outputs of a weight, in LyCORIS' and kohya's names.
const (
	blocks  role = "oft_blocks" // [n, b, b] of OFT, [m, n, b, b] of BOFT
	rescale role = "rescale"    // of each output: [out, 1, …]
)

// rotates reports whether the kind is a rotation of the weight.
func (k Kind) rotates() bool { return k == Rotation || k == Butterfly }

// rotation sets the kind of a module with blocks.
func (m *Module) rotation(shape []int) error {
	switch len(shape) {
	case 3:
		m.Kind = Rotation
	case 4:
		m.Kind = Butterfly
	default:
		return fmt.Errorf("%s: want shape [blocks, b, b] for OFT, or [stages, blocks, b, b] for BOFT, got %v", blocks, shape)
	}
	if n := len(shape); shape[n-1] != shape[n-2] || product(shape) == 0 {
		return fmt.Errorf("%s: want square blocks, got the shape %v", blocks, shape)
	}
	return nil
}

// fitsRotation reports whether a module's blocks match the outputs of a layer.
func (m *Module) fitsRotation(s *spot) error {
	if len(s.shape) < 2 {
		return fmt.Errorf("want a full difference of shape %v for a norm, got %s", s.shape, m.Kind)
	}
	shape, out := m.shapes[blocks], s.shape[0]
	n := len(shape)
	if b := shape[n-1]; shape[n-3]*b != out {
		return fmt.Errorf("its blocks have shape %v, want %d outputs in total", shape, out)
	}
	if m.Kind == Butterfly {
		for i, width := 0, shape[n-1]; i < shape[0]; i, width = i+1, 2*width {
			if width%2 != 0 || width > out || out%width != 0 {
				return fmt.Errorf("%d stages of blocks of %d do not divide %d outputs", shape[0], shape[n-1], out)
			}
		}
	}
	if by, ok := m.shapes[rescale]; ok && (product(by) != out || by[0] != out) {
		return fmt.Errorf("rescale: want one factor for each of %d outputs, got shape %v", out, by)
	}
	return nil
}

// rotary is an adapter that rotates a weight's outputs, W' = rescale·R·W (Qiu et al. 2023; in stages Liu et al. 2024), with R orthogonal, the
// Cayley transform of the blocks. The LoRA weight interpolates R linearly from the identity; in BOFT, each stage.
type rotary struct {
	blocks, rescale *torch.Tensor // rescale may be nil
	bound           float64       // of the norm of Q; 0: none
	scale           float64
}

// Version counts in-place modifications of its tensors.
func (a rotary) Version() int {
	n := a.blocks.Version()
	if a.rescale != nil {
		n += a.rescale.Version()
	}
	return n
}

// AddTo implements nn.Adapter.
func (a rotary) AddTo(s *torch.Scope, sum, w *torch.Tensor) {
	s.Tidy(func(s *torch.Scope) *torch.Tensor {
		d := torch.Float32 // matrices are inverted in float32 at least
		if sum.DType() == torch.Float64 {
			d = torch.Float64
		}
		base := w.To(s, d)
		v := base.Flatten(s, 1, -1) // [out, k]
		r := a.turns(s, d)
		if a.blocks.NDim() == 3 {
			n, b := a.blocks.Dim(0), a.blocks.Dim(1)
			v = r.Transpose(s, 1, 2).MatMul(s, v.Reshape(s, n, b, -1)).Reshape(s, n*b, -1)
		} else {
			v = a.stages(s, r, v)
		}
		v = v.Reshape(s, w.Shape()...)
		if a.rescale != nil {
			along := slices.Repeat([]int{1}, w.NDim())
			along[0] = w.Dim(0)
			v = v.Mul(s, a.rescale.To(s, d).Reshape(s, along...))
		}
		sum.AddInPlace(s, v.Sub(s, base).To(s, sum.DType()))
		return nil
	})
}

// turns returns the orthogonal blocks (I+Q)·(I−Q)⁻¹ for Q = B − Bᵀ, whose norm is limited, interpolated from the identity by the scale.
func (a rotary) turns(s *torch.Scope, d torch.DType) *torch.Tensor {
	shape := a.blocks.Shape()
	b := shape[len(shape)-1]
	q := a.blocks.To(s, d).Reshape(s, -1, b, b)
	q = q.Sub(s, q.Transpose(s, 1, 2))
	if a.bound > 0 {
		if norm := q.Norm(s).Item() + 1e-8; norm > a.bound {
			q = q.MulScalar(s, a.bound/norm)
		}
	}
	one := torch.Eye(s, b, d)
	inverse, err := torch.Call(s, "aten::linalg_inv", one.Sub(s, q)) // I−Q has one: Q's eigenvalues are imaginary
	if err != nil {
		panic(&torch.Error{Op: "turn a weight", Msg: err.Error()})
	}
	r := one.Add(s, q).MatMul(s, inverse[0].(*torch.Tensor))
	if a.scale != 1 {
		r = r.MulScalar(s, a.scale).Add(s, one.MulScalar(s, 1-a.scale))
	}
	return r.Reshape(s, shape...)
}

// stages applies the blocks of BOFT, [m, n, b, b]: stage i mixes outputs that are 2ⁱ·b/2 apart.
func (a rotary) stages(s *torch.Scope, r, v *torch.Tensor) *torch.Tensor {
	m, n, b, out := r.Dim(0), r.Dim(1), r.Dim(2), v.Dim(0)
	for i := range m {
		k := b / 2 << i
		v = v.Reshape(s, out/2/k, 2, k, -1).Transpose(s, 1, 2).Reshape(s, n, b, -1)
		v = r.Narrow(s, 0, i, 1).Reshape(s, n, b, b).MatMul(s, v)
		v = v.Reshape(s, out/2/k, k, 2, -1).Transpose(s, 1, 2).Reshape(s, out, -1)
	}
	return v
}

// rotary binds a module's tensors below the path. Its alpha times the number of outputs limits the norm of Q.
func (p pair) rotary(path nn.Path) func(weight float64) nn.Adapter {
	a := rotary{blocks: path.Param(string(blocks), nil, p.shapes[blocks]...), bound: p.Alpha * float64(p.spot.shape[0])}
	if shape, ok := p.shapes[rescale]; ok {
		a.rescale = path.Param(string(rescale), nil, shape...)
	}
	return func(weight float64) nn.Adapter {
		one := a
		one.scale = weight
		return one
	}
}

var errTurned = errors.New("oft_blocks of an OFT or BOFT is missing: it has rescale only")
