package lora

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Kind is the type of an adapter's module.
type Kind string

// The kinds of adapters.
const (
	LowRank    Kind = "LoRA" // W + s·B·A (Hu et al. 2021)
	Tucker     Kind = "LoRA with a Tucker kernel"
	Hadamard   Kind = "LoHa" // W + s·(B₁·A₁)⊙(B₂·A₂) (Hyeon-Woo et al. 2021)
	Kronecker  Kind = "LoKr" // W + s·C⊗(B·A) (Yeh et al. 2023)
	Difference Kind = "full" // W + D
	Rotation   Kind = "OFT"  // R·W with R orthogonal, in blocks (Qiu et al. 2023)
	Butterfly  Kind = "BOFT" // the same in stages (Liu et al. 2024)
)

// Module is the adapter of one layer.
type Module struct {
	Name   string // of the layer: part and path in diffusers' current names if the model is known; otherwise as in the file
	Layout Layout
	Kind   Kind
	DoRA   bool    // weight-decomposed: the delta changes the direction, and the magnitude of each row is trained separately (Liu et al. 2024)
	Rank   int     // 0: none
	Alpha  float64 // alpha in the file; by default the rank
	Scale  float64 // factor of the delta: alpha/rank, or alpha/√rank
	DType  torch.DType

	key     key
	tensors map[role]string // names in the file
	shapes  map[role][]int
	order   []role // of the tensors, sorted
}

// complete sets a module's kind, rank and scale.
func (f *File) complete(m *Module, c configs) error {
	m.order = slices.Sorted(maps.Keys(m.tensors))
	shapes := map[role][]int{}
	m.shapes = shapes
	for r, name := range m.tensors {
		shape, d, _ := f.src.Info(name)
		if !d.IsFloat() && !d.IsFloat8() && r != alpha {
			return fmt.Errorf("%s: want a floating-point type, got %s", r, d)
		}
		shapes[r] = shape
		if r != alpha && r != magnitude {
			m.DType = d
		}
	}
	_, m.DoRA = m.tensors[magnitude]
	has := func(roles ...role) bool {
		return !slices.ContainsFunc(roles, func(r role) bool { return m.tensors[r] == "" })
	}
	rank := func(r role, dim, of int) (int, error) {
		if s := shapes[r]; len(s) != of && !(of == 2 && len(s) > 2) {
			return 0, fmt.Errorf("%s: want %d dimensions, got the shape %v", r, of, s)
		}
		return shapes[r][dim], nil
	}
	var err error
	allowed := []role{alpha, magnitude, diffBias}
	switch {
	case has(diff) || len(m.tensors) == 1 && has(diffBias):
		m.Kind = Difference
		allowed = []role{diff, diffBias}
	case has("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"):
		m.Kind = Hadamard
		m.Rank, err = rank("hada_w1_b", 0, 2)
		allowed = append(allowed, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
		if has("hada_t1") != has("hada_t2") {
			err = errors.New("want hada_t1 and hada_t2, or neither")
		}
	case has("lokr_w1") || has("lokr_w1_a", "lokr_w1_b"):
		m.Kind = Kronecker
		one, two := []role{"lokr_w1_a", "lokr_w1_b"}, []role{"lokr_w2_a", "lokr_w2_b", "lokr_t2"}
		if has("lokr_w1") {
			one = []role{"lokr_w1"}
		}
		if has("lokr_w2") {
			two = []role{"lokr_w2"}
		}
		allowed = slices.Concat(allowed, one, two)
		switch {
		case !has("lokr_w2") && !has("lokr_w2_a", "lokr_w2_b"):
			return errors.New("want lokr_w2, or lokr_w2_a and lokr_w2_b")
		case has("lokr_w2_b"):
			m.Rank, err = rank("lokr_w2_b", 0, 2)
		case has("lokr_w1_b"):
			m.Rank, err = rank("lokr_w1_b", 0, 2)
		}
	case has(blocks):
		allowed = []role{alpha, blocks, rescale}
		err = m.rotation(shapes[blocks])
	case has(rescale):
		return errTurned
	case has(down, up):
		m.Kind = LowRank
		if has(mid) {
			m.Kind = Tucker
		}
		allowed = append(allowed, down, up, mid)
		if m.Rank, err = rank(down, 0, 2); err == nil && (len(shapes[up]) < 2 || shapes[up][1] != m.Rank) {
			return fmt.Errorf("down has rank %d (shape %v), but up has another (shape %v)", m.Rank, shapes[down], shapes[up])
		}
		if has(mid) && (len(shapes[mid]) != 4 || shapes[mid][0] != m.Rank || shapes[mid][1] != m.Rank) {
			return fmt.Errorf("mid: want shape [%d, %d, k, k], got %v", m.Rank, m.Rank, shapes[mid])
		}
	default:
		return fmt.Errorf("want down and up of a LoRA, or all tensors of a LoHa, LoKr or OFT, got %v", m.order)
	}
	if err != nil {
		return err
	}
	for _, r := range m.order {
		if !slices.Contains(allowed, r) {
			return fmt.Errorf("unexpected tensor %s in a module of type %s, which has %v", r, m.Kind, m.order)
		}
	}
	if m.Kind != Difference && m.Kind != Kronecker && !m.Kind.rotates() && m.Rank < 1 {
		return errors.New("it has rank 0")
	}
	if m.Rank > maxRank {
		if got, err := f.shape(m); err == nil {
			if err := bounded(m.Rank, got[0], product(got[1:])); err != nil {
				return err
			}
		}
	}
	return f.scale(m, c)
}

// scale sets the module's scale. Without an alpha it is 1.
func (f *File) scale(m *Module, c configs) error {
	m.Alpha, m.Scale = float64(m.Rank), 1
	if name, ok := m.tensors[alpha]; ok {
		v, err := f.number(name)
		if err != nil {
			return err
		}
		m.Alpha = v
	}
	root := false
	if s, ok := c.of(m.key.part); ok && !m.key.flat { // the configuration takes precedence, as in diffusers
		m.Alpha, root = s.alpha(m.key.path, m.Alpha), s.RootRank
		if m.Kind == Kronecker && m.Rank == 0 { // peft scales whole factors, too
			m.Rank = s.rank(m.key.path)
		}
	}
	if m.Kind.rotates() { // alpha limits the rotation
		if m.tensors[alpha] == "" {
			m.Alpha = 0
		}
		return nil
	}
	if m.Rank == 0 { // a full difference, or two full factors, which LyCORIS does not scale
		m.Alpha = 0
		return nil
	}
	m.Scale = m.Alpha / float64(m.Rank)
	if root {
		m.Scale = m.Alpha / math.Sqrt(float64(m.Rank))
	}
	return nil
}

// number reads a scalar tensor.
func (f *File) number(name string) (v float64, err error) {
	shape, _, _ := f.src.Info(name)
	if n := product(shape); n != 1 {
		return 0, fmt.Errorf("alpha: want one number, got the shape %v", shape)
	}
	list, err := f.src.Floats(name)
	if err != nil {
		return 0, err
	}
	if v = list[0]; math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("alpha: want a finite number, got %g", v)
	}
	return v, nil
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
