package lora

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// Match is the result of matching an adapter's modules to a model's layers.
type Match struct {
	Matched   []string // layers with a module, by part and path
	Unmatched []string // modules without a layer in the model
	Misshapen []string // modules with a shape mismatch, with both shapes
	Twice     []string // layers with two modules

	// Base describes the other base model that the adapter seems to be for; "": this model, or unknown.
	Base string

	pairs []pair
	what  string // the model, in messages
}

// pair is a module and its layer.
type pair struct {
	*Module
	spot *spot
}

// Match matches the adapter's modules to the layers of networks. It sets the Name of matching modules to their layers' names.
func (f *File) Match(n Networks) Match { return f.match(tableOf(n), "the model") }

// MatchFiles is Match for a model whose weights are not loaded.
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

// Err returns a [*FitError] with all mismatches, or nil. With partial, modules without a layer are not an error as long as others match.
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
	note("module", " with a shape mismatch", m.Misshapen)
	note("layer", " with two modules", m.Twice)
	if parts == nil && len(m.Matched) == 0 {
		parts = append(parts, "none of its modules has a layer in "+m.what)
	}
	if parts == nil {
		return nil
	}
	return &FitError{m, "the adapter does not match the model: " + strings.Join(parts, "; ")}
}

// Base returns the names of the published base models that all modules match; none if the base model is another or unknown.
func (f *File) Base() []string {
	names, _ := f.published()
	return names
}

// published returns the published base models that all modules match, and the table of one.
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

// fits reports whether a module's delta has the shape of the layer's weight.
func (f *File) fits(m *Module, s *spot) error {
	if shape, ok := m.shapes[diffBias]; ok && (!s.biased || !slices.Equal(trimmed(shape), trimmed(s.shape[:1]))) {
		return fmt.Errorf("the delta of its bias has shape %v, want [%d] and a layer with a bias", shape, s.shape[0])
	}
	if shape := m.shapes[diff]; m.Kind == Difference {
		if shape != nil && !agree(shape, s.shape, true) {
			return fmt.Errorf("the delta of its weight has shape %v, want %v", shape, s.shape)
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
		return fmt.Errorf("want a full difference of shape %v for a norm, got %s", s.shape, m.Kind)
	case !agree(got, s.shape, m.Kind == Hadamard || m.Kind == Kronecker):
		return fmt.Errorf("the delta of its weight has shape %v, want %v", got, s.shape)
	case m.Kind == Kronecker:
		if one := f.first(m); s.shape[0]%one[0] != 0 || s.shape[1]%one[1] != 0 {
			return fmt.Errorf("want a first factor whose sides divide those of the weight, %v, got shape %v", s.shape, one)
		}
	}
	if !m.DoRA {
		return nil
	}
	shape := m.shapes[magnitude]
	columns := m.Layout != PEFT && len(shape) > 1 && shape[0] == 1 && shape[1] == s.shape[1]
	if n := product(shape); !slices.Contains(shape, n) || (n != s.shape[0] && !(n == s.shape[1] && columns)) {
		return fmt.Errorf("the magnitude of DoRA has shape %v, want %d values", shape, s.shape[0])
	}
	return nil
}

// agree reports whether the shape of a delta matches a weight's. Trailing dimensions of 1 are ignored; with flat, a matrix matches a
// convolution kernel with the same number of elements.
func agree(got, weight []int, flat bool) bool {
	if slices.Equal(trimmed(got), trimmed(weight)) {
		return true
	}
	return flat && len(got) == 2 && len(weight) > 2 && got[0] == weight[0] && got[1] == product(weight[1:])
}

// trimmed is a shape without trailing dimensions of 1.
func trimmed(shape []int) []int {
	for len(shape) > 0 && shape[len(shape)-1] == 1 {
		shape = shape[:len(shape)-1]
	}
	return shape
}

// first returns the shape of a LoKr's first factor.
func (f *File) first(m *Module) []int {
	if shape := m.shapes["lokr_w1"]; shape != nil {
		return shape
	}
	return []int{m.shapes["lokr_w1_a"][0], m.shapes["lokr_w1_b"][1]}
}

// shape returns the shape of a module's delta: rows, columns, and the kernel's dimensions.
func (f *File) shape(m *Module) ([]int, error) {
	of := func(r role) []int { return m.shapes[r] }
	switch m.Kind {
	case Rotation, Butterfly:
		return nil, fmt.Errorf("the shape of a %s does not depend on its layer's inputs", m.Kind)
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
		return nil, fmt.Errorf("want matrices that can be multiplied, got shapes %v and %v", a, b)
	}
	return append([]int{a[0]}, b[1:]...), nil
}

// tuckerShape is that of Σ t[i, j]·a[i]·b[j].
func tuckerShape(t, a, b []int) ([]int, error) {
	if len(t) != 4 || len(a) != 2 || len(b) != 2 || t[0] != a[0] || t[1] != b[0] {
		return nil, fmt.Errorf("want a kernel and two matrices of matching shapes, got %v, %v and %v", t, a, b)
	}
	return append([]int{a[1], b[1]}, t[2:]...), nil
}
