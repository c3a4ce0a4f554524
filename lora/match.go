package lora

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
			m.Unmatched = append(m.Unmatched, legible(module.key.stem))
			continue
		}
		if err := f.fits(module, s); err != nil {
			m.Misshapen = append(m.Misshapen, fmt.Sprintf("%s (%v)", s.name(), err))
			continue
		}
		if other := seen[s]; other != nil {
			m.Twice = append(m.Twice, fmt.Sprintf("%s (as %s and as %s)", s.name(), legible(other.key.stem), legible(module.key.stem)))
			continue
		}
		seen[s] = module
		module.Name = s.name()
		m.Matched = append(m.Matched, s.name())
		m.pairs = append(m.pairs, pair{module, s})
	}
	if width := f.width(); width > 0 && t.width() > 0 && width != t.width() {
		m.Base = fmt.Sprintf("%s, whose networks take texts of %d features, and %s takes %d", family(width), width, what, t.width())
	} else if name := f.foreign(); name != "" && len(m.Unmatched) > 0 {
		m.Base = name
	}
	return m
}

// Err says what does not fit, or nil. With partial, modules without a layer are no mistake, as long as there are others.
func (m Match) Err(partial bool) error {
	if m.Base != "" {
		return fmt.Errorf("the adapter is for %s: want one for the same base", m.Base)
	}
	var parts []string
	note := func(what string, names []string) {
		if len(names) > 0 {
			parts = append(parts, list(what, names))
		}
	}
	if !partial {
		note("modules of which "+m.what+" has no layer", m.Unmatched)
	}
	note("modules of another shape than their layers", m.Misshapen)
	note("layers with two modules", m.Twice)
	if parts == nil && len(m.Matched) == 0 {
		parts = append(parts, "none of its modules has a layer in "+m.what)
	}
	if parts == nil {
		return nil
	}
	return fmt.Errorf("the adapter does not fit: %s", strings.Join(parts, "; "))
}

// family names the models whose networks take texts of so many features.
func family(width int) string {
	switch width {
	case 768:
		return "Stable Diffusion 1"
	case 1024:
		return "Stable Diffusion 2"
	case 2048:
		return "Stable Diffusion XL or SSD-1B"
	}
	return "another model"
}

// width returns how many features of a text the adapter's network takes, by the modules between text and pixels; 0: there are none.
func (f *File) width() int {
	for _, m := range f.Modules {
		if m.Kind != LowRank || !strings.HasSuffix(flatten(m.key.path), "attn2_to_k") {
			continue
		}
		if shape, _, _ := f.src.Info(m.tensors[down]); len(shape) > 1 {
			return shape[1]
		}
	}
	return 0
}

// foreigners are what names of adapters for models of other families begin with or contain, the path flat.
var foreigners = []struct{ contains, name string }{
	{"double_blocks_", "Flux"}, {"single_transformer_blocks_", "Flux"}, {"joint_blocks_", "Stable Diffusion 3"}, {"transformer.transformer_blocks", "Stable Diffusion 3 or Flux"},
	{"lora_te3_", "Stable Diffusion 3"}, {"lora_prior", "Stable Cascade"}, {"motion_modules_", "AnimateDiff"}, {"lora_transformer_", "a transformer"},
}

// foreign names the family that an adapter is for, if its names tell.
func (f *File) foreign() string {
	for _, m := range f.Modules {
		for _, other := range foreigners {
			if strings.Contains(m.key.path, other.contains) || strings.Contains(flatten(m.key.path), other.contains) {
				return other.name
			}
		}
	}
	return ""
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
	if shape, ok := m.shapes[diffBias]; ok && (!s.biased || product(shape) != s.shape[0]) {
		return fmt.Errorf("want a change of a bias of %d values where there is one, got the shape %v", s.shape[0], shape)
	}
	if shape := m.shapes[diff]; m.Kind == Difference {
		if shape != nil && product(shape) != product(s.shape) || len(s.shape) > 1 && len(shape) > 1 && shape[0] != s.shape[0] {
			return fmt.Errorf("want a difference of the shape %v, got %v", s.shape, shape)
		}
		return nil
	}
	got, err := f.shape(m)
	if err != nil {
		return err
	}
	if len(s.shape) < 2 {
		return fmt.Errorf("want a difference of the shape %v for a norm, got a %s", s.shape, m.Kind)
	}
	out, in, kernel := s.shape[0], s.shape[1], product(s.shape[2:])
	if len(got) != 3 || got[0] != out || got[1]*got[2] != in*kernel || (got[2] != kernel && m.Kind != Hadamard && m.Kind != Kronecker) {
		return fmt.Errorf("want a change of a weight of %d×%d, got one of %d×%d", out, in*kernel, got[0], got[1]*got[2])
	}
	if !m.DoRA {
		return nil
	}
	shape, _, _ := f.src.Info(m.tensors[magnitude])
	if n := product(shape); n != out && n != in {
		return fmt.Errorf("want %d lengths, got the shape %v", out, shape)
	}
	return nil
}

// shape returns the shape of a module's product: rows, columns, elements of the kernel.
func (f *File) shape(m *Module) ([]int, error) {
	of := func(r role) []int {
		shape, _, _ := f.src.Info(m.tensors[r])
		return shape
	}
	kernel := func(shape []int) int { return product(shape[min(2, len(shape)):]) }
	switch m.Kind {
	case LowRank:
		if n := kernel(of(up)); n != 1 {
			return nil, fmt.Errorf("want a matrix or a 1×1 convolution as up, got the shape %v", of(up))
		}
		return []int{of(up)[0], of(down)[1], kernel(of(down))}, nil
	case Tucker:
		if kernel(of(up)) != 1 || kernel(of(down)) != 1 {
			return nil, fmt.Errorf("want 1×1 convolutions around the kernel, got the shapes %v and %v", of(down), of(up))
		}
		return []int{of(up)[0], of(down)[1], kernel(of(mid))}, nil
	case Hadamard:
		if m.tensors["hada_t1"] != "" {
			one, err := tuckerShape(of("hada_t1"), of("hada_w1_a"), of("hada_w1_b"))
			if err != nil {
				return nil, err
			}
			two, err := tuckerShape(of("hada_t2"), of("hada_w2_a"), of("hada_w2_b"))
			if err == nil && !slices.Equal(one, two) {
				err = fmt.Errorf("its two factors have the shapes %v and %v", one, two)
			}
			return one, err
		}
		one, err := productShape(of("hada_w1_a"), of("hada_w1_b"))
		if err != nil {
			return nil, err
		}
		two, err := productShape(of("hada_w2_a"), of("hada_w2_b"))
		if err == nil && !slices.Equal(one, two) {
			err = fmt.Errorf("its two factors have the shapes %v and %v", one, two)
		}
		return one, err
	default:
		one := append(of("lokr_w1")[:len(of("lokr_w1")):len(of("lokr_w1"))], 1)
		two := of("lokr_w2")
		var err error
		if m.tensors["lokr_w1"] == "" {
			if one, err = productShape(of("lokr_w1_a"), of("lokr_w1_b")); err != nil {
				return nil, err
			}
		}
		switch {
		case m.tensors["lokr_w2"] != "":
			if len(two) < 2 {
				return nil, fmt.Errorf("want a matrix or a kernel as lokr_w2, got the shape %v", two)
			}
			two = []int{two[0], two[1], kernel(two)}
		case m.tensors["lokr_t2"] != "":
			if two, err = tuckerShape(of("lokr_t2"), of("lokr_w2_a"), of("lokr_w2_b")); err != nil {
				return nil, err
			}
		default:
			if two, err = productShape(of("lokr_w2_a"), of("lokr_w2_b")); err != nil {
				return nil, err
			}
		}
		if len(one) != 3 {
			return nil, fmt.Errorf("want a matrix as the first factor, got the shape %v", one[:len(one)-1])
		}
		return []int{one[0] * two[0], one[1] * two[1], two[2]}, nil
	}
}

// productShape is that of a·b, b taken as a matrix.
func productShape(a, b []int) ([]int, error) {
	if len(a) != 2 || len(b) < 2 || a[1] != b[0] {
		return nil, fmt.Errorf("want matrices whose product there is, got the shapes %v and %v", a, b)
	}
	return []int{a[0], product(b[1:]), 1}, nil
}

// tuckerShape is that of Σ t[i, j]·a[i]·b[j].
func tuckerShape(t, a, b []int) ([]int, error) {
	if len(t) != 4 || len(a) != 2 || len(b) != 2 || t[0] != a[0] || t[1] != b[0] {
		return nil, fmt.Errorf("want a kernel and two matrices that fit it, got the shapes %v, %v and %v", t, a, b)
	}
	return []int{a[1], b[1], product(t[2:])}, nil
}
