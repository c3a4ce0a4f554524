package weights

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// part describes how a tensor is made from tensors of the source. All but turn and join are views.
type part struct {
	name  string   // the source's
	shape []int    // of the result; nil: unchanged
	index int      // of the chunk, if count is above 0
	count int      // the first dimension is split into count equal chunks; 0: not split
	turn  bool     // transpose
	join  []string // more tensors of the source, concatenated along the first dimension
}

// mapping is a source with renamed tensors. Tensors without a new name are hidden.
type mapping struct {
	src   nn.Source
	parts map[string]part // by our names
	order []string        // our names, in the source's order
}

func newMapping(src nn.Source) *mapping { return &mapping{src: src, parts: map[string]part{}} }

// add names a tensor. If the name is taken, the tensor keeps its own name, so that it is reported as unexpected.
func (m *mapping) add(ours string, p part) {
	if _, ok := m.parts[ours]; ok {
		ours = p.name + " (twice: " + ours + ")"
	}
	m.parts[ours] = p
	m.order = append(m.order, ours)
}

// Info implements nn.Source.
func (m *mapping) Info(name string) ([]int, torch.DType, bool) {
	p, ok := m.parts[name]
	if !ok {
		return nil, 0, false
	}
	shape, d, ok := m.src.Info(p.name)
	switch {
	case !ok:
		return nil, 0, false
	case p.shape != nil:
		return p.shape, d, true
	case p.turn && len(shape) == 2:
		return []int{shape[1], shape[0]}, d, true
	case p.count > 0 && len(shape) > 0:
		shape = slices.Clone(shape)
		shape[0] /= p.count
	case p.join != nil && len(shape) > 0:
		shape = slices.Clone(shape)
		for _, name := range p.join {
			if more, _, _ := m.src.Info(name); len(more) > 0 {
				shape[0] += more[0]
			}
		}
	}
	return shape, d, true
}

// Names implements nn.Source.
func (m *mapping) Names() iter.Seq[string] { return slices.Values(m.order) }

// Get implements nn.Source.
func (m *mapping) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	p, ok := m.parts[name]
	if !ok {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	if p.shape == nil && p.count == 0 && !p.turn && p.join == nil {
		return m.src.Get(s, p.name)
	}
	var t *torch.Tensor
	err := s.NoGrad(func(c *torch.Scope) error {
		v, err := m.src.Get(c, p.name)
		if err != nil {
			return err
		}
		switch {
		case p.shape != nil:
			v = v.View(c, p.shape...)
		case p.turn && len(v.Shape()) != 2:
			return fmt.Errorf("want 2 dimensions, got shape %v", v.Shape())
		case p.count > 0 && (len(v.Shape()) == 0 || v.Shape()[0]%p.count != 0):
			return fmt.Errorf("want a first dimension divisible by %d, got shape %v", p.count, v.Shape())
		case p.turn:
			v = v.Transpose(c, 0, 1).Contiguous(c)
		case p.join != nil:
			all := []*torch.Tensor{v}
			for _, name := range p.join {
				more, err := m.src.Get(c, name)
				if err != nil {
					return err
				}
				all = append(all, more)
			}
			v = torch.Cat(c, all, 0)
		default:
			n := v.Shape()[0] / p.count
			v = v.Narrow(c, 0, p.index*n, n)
		}
		t = c.Keep(v)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tensor %s: %w", quote.Quoted(name), err)
	}
	return t, nil
}

// Release implements nn.Source. All chunks of a split tensor are released together.
func (m *mapping) Release(name string) {
	if p, ok := m.parts[name]; ok {
		m.src.Release(p.name)
		for _, name := range p.join {
			m.src.Release(name)
		}
	}
}
