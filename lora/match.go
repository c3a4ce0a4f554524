package lora

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// Match is which modules of an adapter fit a model.
type Match struct {
	Matched   []string // layers that are adapted, by part and path
	Unmatched []string // modules of which the model has no layer
	Misshapen []string // modules that do not fit their layers, with both shapes
	Twice     []string // layers of which there are two modules

	// Base says for what other model the adapter seems to be; "": this one, or one that is not known.
	Base string

	pairs []pair
	what  string // the model, in messages
}

// pair is a module and its layer.
type pair struct {
	*Module
	spot *spot
}

// Match tells which modules of the adapter fit the networks. Modules that do are called by their layers' names from then on.
func (f *File) Match(n Networks) Match { return f.match(tableOf(n), "the model") }

// MatchFiles is Match for a model whose weights are not read.
func (f *File) MatchFiles(m *weights.Model) (Match, error) {
	plans, err := plansOf(m)
	if err != nil {
		return Match{}, err
	}
	return f.match(tableOfPlan(plans), "the model"), nil
}

func (f *File) match(t *table, what string) Match {
	m := Match{what: what}
	seen := map[*spot]*Module{}
	for _, module := range f.Modules {
		s := t.find(module.key)
		if s == nil {
			m.Unmatched = append(m.Unmatched, quote.Text(module.key.stem))
			continue
		}
		if err := f.fits(module, s); err != nil {
			m.Misshapen = append(m.Misshapen, fmt.Sprintf("%s (%v)", quote.Text(s.name()), err))
			continue
		}
		if other := seen[s]; other != nil {
			m.Twice = append(m.Twice, fmt.Sprintf("%s (as %s and as %s)", quote.Text(s.name()), quote.Text(other.key.stem), quote.Text(module.key.stem)))
			continue
		}
		seen[s] = module
		module.Name = s.name()
		m.Matched = append(m.Matched, s.name())
		m.pairs = append(m.pairs, pair{module, s})
	}
	m.Base = f.otherBase(t, m)
	return m
}

// Err says what does not fit, in a [*FitError], or nil. With partial, modules without a layer are no mistake, as long as there are others.
func (m Match) Err(partial bool) error {
	if m.Base != "" {
		return &FitError{m, fmt.Sprintf("the adapter is for %s: want an adapter for the same base model", m.Base)}
	}
	var parts []string
	note := func(noun, rest string, names []string) {
		if len(names) > 0 {
			parts = append(parts, list(noun, rest, names))
		}
	}
	if !partial {
		note("module", " without a layer in "+m.what, m.Unmatched)
	}
	note("module", " with a shape that does not match its layer's", m.Misshapen)
	note("layer", " with two modules", m.Twice)
	if parts == nil && len(m.Matched) == 0 {
		parts = append(parts, "none of its modules has a layer in "+m.what)
	}
	if parts == nil {
		return nil
	}
	return &FitError{m, "the adapter does not fit: " + strings.Join(parts, "; ")}
}

// Base names the published models that all modules fit; none: it is for another, or they are unknown.
func (f *File) Base() []string {
	names, _ := f.published()
	return names
}

// published finds the published models that all modules fit, and the table of one.
func (f *File) published() (names []string, t *table) {
	tables := published()
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if m := f.match(tables[name], name); m.Err(false) == nil {
			names = append(names, name)
			if t == nil || name == "Stable Diffusion XL" {
				t = tables[name]
			}
		}
	}
	return names, t
}

// fits tells whether a module's product has the shape of the layer's weight.
func (f *File) fits(m *Module, s *spot) error {
	if shape, ok := m.shapes[diffBias]; ok && (!s.biased || !slices.Equal(trimmed(shape), trimmed(s.shape[:1]))) {
		return fmt.Errorf("want a change of a bias of %d values where there is one, got the shape %v", s.shape[0], shape)
	}
	if shape := m.shapes[diff]; m.Kind == Difference {
		if shape != nil && !agree(shape, s.shape, true) {
			return fmt.Errorf("want a difference of the shape %v, got %v", s.shape, shape)
		}
		return nil
	}
	if m.Kind.rotates() {
		return m.fitsRotation(s)
	}
	got, err := f.shape(m)
	switch {
	case err != nil:
		return err
	case len(s.shape) < 2:
		return fmt.Errorf("want a difference of the shape %v for a norm, got a %s", s.shape, m.Kind)
	case !agree(got, s.shape, m.Kind == Hadamard || m.Kind == Kronecker):
		return fmt.Errorf("the delta of its weight has shape %v, want %v", got, s.shape)
	case m.Kind == Kronecker:
		if one := f.first(m); s.shape[0]%one[0] != 0 || s.shape[1]%one[1] != 0 {
			return fmt.Errorf("want a first factor whose sides divide those of the weight %v, got the shape %v", s.shape, one)
		}
	}
	if !m.DoRA {
		return nil
	}
	shape := m.shapes[magnitude]
	columns := m.Layout != PEFT && len(shape) > 1 && shape[0] == 1 && shape[1] == s.shape[1]
	if n := product(shape); !slices.Contains(shape, n) || (n != s.shape[0] && !(n == s.shape[1] && columns)) {
		return fmt.Errorf("want %d lengths, got the shape %v", s.shape[0], shape)
	}
	return nil
}

// agree tells whether a change of a shape is one of a weight: dimensions of 1 at the end count for nothing, and where it may be flat, it may be
// a matrix in place of a kernel.
func agree(got, weight []int, flat bool) bool {
	if slices.Equal(trimmed(got), trimmed(weight)) {
		return true
	}
	return flat && len(got) == 2 && len(weight) > 2 && got[0] == weight[0] && got[1] == product(weight[1:])
}

// trimmed is a shape without dimensions of 1 at the end.
func trimmed(shape []int) []int {
	for len(shape) > 0 && shape[len(shape)-1] == 1 {
		shape = shape[:len(shape)-1]
	}
	return shape
}

// first returns the shape of a LoKr's first factor, which there is.
func (f *File) first(m *Module) []int {
	if shape := m.shapes["lokr_w1"]; shape != nil {
		return shape
	}
	return []int{m.shapes["lokr_w1_a"][0], m.shapes["lokr_w1_b"][1]}
}

// shape returns the shape of a module's product: rows, columns, and those of a kernel.
func (f *File) shape(m *Module) ([]int, error) {
	of := func(r role) []int { return m.shapes[r] }
	switch m.Kind {
	case Rotation, Butterfly:
		return nil, fmt.Errorf("a %s says nothing of the inputs of its layer", m.Kind)
	case LowRank:
		if len(trimmed(of(up))) > 2 {
			return nil, fmt.Errorf("want a matrix or a 1×1 convolution as up, got the shape %v", of(up))
		}
		return append([]int{of(up)[0]}, of(down)[1:]...), nil
	case Tucker:
		if len(trimmed(of(up))) > 2 || len(trimmed(of(down))) > 2 {
			return nil, fmt.Errorf("want 1×1 convolutions around the kernel, got the shapes %v and %v", of(down), of(up))
		}
		return append([]int{of(up)[0], of(down)[1]}, of(mid)[2:]...), nil
	case Hadamard:
		part := func(t, a, b role) ([]int, error) {
			if m.tensors[t] != "" {
				return tuckerShape(of(t), of(a), of(b))
			}
			return productShape(of(a), of(b))
		}
		one, err := part("hada_t1", "hada_w1_a", "hada_w1_b")
		if err != nil {
			return nil, err
		}
		two, err := part("hada_t2", "hada_w2_a", "hada_w2_b")
		if err == nil && (one[0] != two[0] || product(one[1:]) != product(two[1:])) {
			err = fmt.Errorf("its two factors have the shapes %v and %v", one, two)
		}
		return one, err
	default:
		one, two := of("lokr_w1"), of("lokr_w2")
		var err error
		if one == nil {
			if one, err = productShape(of("lokr_w1_a"), of("lokr_w1_b")); err != nil {
				return nil, err
			}
		}
		switch {
		case m.tensors["lokr_t2"] != "":
			two, err = tuckerShape(of("lokr_t2"), of("lokr_w2_a"), of("lokr_w2_b"))
		case two == nil:
			two, err = productShape(of("lokr_w2_a"), of("lokr_w2_b"))
		case len(two) < 2:
			err = fmt.Errorf("want a matrix or a kernel as lokr_w2, got the shape %v", two)
		}
		if err != nil {
			return nil, err
		}
		if len(one) != 2 || product(one) == 0 {
			return nil, fmt.Errorf("want a matrix as the first factor, got the shape %v", one)
		}
		return append([]int{one[0] * two[0], one[1] * two[1]}, two[2:]...), nil
	}
}

// productShape is that of a·b.
func productShape(a, b []int) ([]int, error) {
	if len(a) != 2 || len(b) < 2 || a[1] != b[0] {
		return nil, fmt.Errorf("want matrices whose product there is, got the shapes %v and %v", a, b)
	}
	return append([]int{a[0]}, b[1:]...), nil
}

// tuckerShape is that of Σ t[i, j]·a[i]·b[j].
func tuckerShape(t, a, b []int) ([]int, error) {
	if len(t) != 4 || len(a) != 2 || len(b) != 2 || t[0] != a[0] || t[1] != b[0] {
		return nil, fmt.Errorf("want a kernel and two matrices that fit it, got the shapes %v, %v and %v", t, a, b)
	}
	return append([]int{a[1], b[1]}, t[2:]...), nil
}
