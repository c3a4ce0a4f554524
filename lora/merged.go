package lora

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Weighted is an adapter file with its LoRA weights.
type Weighted struct {
	*File
	Weights Weights
	Partial bool // as in [Options]
}

// merged is a source of weights with merged adapters.
type merged struct {
	nn.Source
	by map[string][]nn.Adapter // by name
	as *torch.DType            // type of merged weights; nil: the weight's own, or float16 for 8-bit floats
}

// MergeWeights merges adapters into a model that is to be written: from then on its parts yield merged weights, computed one at a time and
// rounded once, to type as. With nil, weights keep their types, except that merged 8-bit floats become float16. The function it returns
// frees the adapters; call it after the model is written.
func MergeWeights(m *weights.Model, as *torch.DType, adapters ...Weighted) (done func() error, err error) {
	plans, err := plansOf(m)
	if err != nil {
		return nil, err
	}
	t := tableOfPlan(plans)
	scope := torch.NewScope(torch.CPU)
	var all []*Adapter
	free := func() error {
		var err error
		for _, a := range all {
			a.store.Close()
			err = errors.Join(err, a.file.Close())
		}
		scope.Close()
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, free())
		}
	}()
	changes := map[string]map[string][]nn.Adapter{}
	for _, w := range adapters {
		a, err := attach(t, w.File, torch.CPU, torch.Float32, Options{Partial: w.Partial})
		if err != nil {
			return nil, err
		}
		all = append(all, a)
		if err := a.Check(w.Weights); err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(w.Path), err)
		}
		for _, one := range a.made {
			v := w.Weights.of(one.spot.name())
			if v == 0 {
				continue
			}
			if changes[one.spot.part] == nil {
				changes[one.spot.part] = map[string][]nn.Adapter{}
			}
			name := one.spot.path + ".weight"
			if one.bias {
				name = one.spot.path + ".bias"
			}
			changes[one.spot.part][name] = append(changes[one.spot.part][name], one.at(v*one.base))
		}
	}
	m.Spec = described(m.Spec, adapters)
	for _, w := range adapters {
		if n := w.OriginalSteps(); n > 0 && slices.ContainsFunc(slices.Collect(maps.Values(w.Weights)), func(v float64) bool { return v != 0 }) {
			m.Scheduler = withGrid(m.Scheduler, n)
			break
		}
	}
	for part, c := range components(m) {
		if changes[part] != nil {
			c.Source = merged{c.Source, changes[part], as}
		}
	}
	return free, nil
}

// withGrid is a scheduler's configuration with the grid of timesteps of a few-step adapter, for the samplers of such adapters.
func withGrid(config []byte, size int) []byte {
	c, err := noise.ParseConfig(config)
	if err != nil || size > c.Steps() {
		return config
	}
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(config))
	dec.UseNumber()
	if dec.Decode(&all) != nil {
		return config
	}
	all["original_inference_steps"] = size
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return config
	}
	return text
}

// described is the metadata of a model with merged adapters: without the original's title, and with merged_from.
func described(spec map[string]string, adapters []Weighted) map[string]string {
	spec = maps.Clone(spec)
	if spec == nil {
		spec = map[string]string{}
	}
	var from []string
	if title := spec["title"]; title != "" {
		from = append(from, title)
	}
	for _, a := range adapters {
		name := filepath.Base(a.Path)
		from = append(from, cmp.Or(a.Metadata["modelspec.title"], strings.TrimSuffix(name, filepath.Ext(name))))
	}
	for _, key := range []string{"title", "author", "date", "thumbnail"} {
		delete(spec, key)
	}
	spec["merged_from"] = strings.Join(from, ", ")
	return spec
}

// components are the parts of a model that adapters can apply to.
func components(m *weights.Model) map[string]*weights.Component {
	all := map[string]*weights.Component{}
	for part, c := range map[string]*weights.Component{unetPart: m.UNet, textPart: m.Text, text2Part: m.Text2} {
		if c != nil {
			all[part] = c
		}
	}
	return all
}

// plansOf returns the shapes of a model's parts, by their configurations.
func plansOf(m *weights.Model) (map[string][]nn.Shape, error) {
	plans := map[string][]nn.Shape{}
	for part, c := range components(m) {
		if part == unetPart {
			config, err := unet.ParseConfig(c.Config)
			if err != nil {
				return nil, err
			}
			plans[part] = unet.Shapes(config)
			continue
		}
		config, err := weights.ParseText(c.Config, part == text2Part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Text(part), err)
		}
		plans[part] = clip.Shapes(config)
	}
	return plans, nil
}

// Get implements nn.Source.
func (m merged) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	w, err := m.Source.Get(s, name)
	by := m.by[name]
	if err != nil || by == nil {
		return w, err
	}
	d := w.DType()
	t := s.Tidy(func(s *torch.Scope) *torch.Tensor {
		if d.IsFloat8() { // has no arithmetic
			w = w.To(s, torch.Float32)
		}
		return nn.Changed(s, w, by...).To(s, m.dtype(name, d))
	})
	return t, finite(s, name, t)
}

// dtype is the type of a weight of type d.
func (m merged) dtype(name string, d torch.DType) torch.DType {
	switch {
	case m.by[name] == nil:
		return d
	case m.as != nil:
		return *m.as
	case d.IsFloat8(): // rounding steps of 6% and 12% are larger than most adapters' deltas
		return torch.Float16
	}
	return d
}

// Info implements nn.Source.
func (m merged) Info(name string) ([]int, torch.DType, bool) {
	shape, d, ok := m.Source.Info(name)
	return shape, m.dtype(name, d), ok
}

// finite reports a merged weight that overflowed in its type.
func finite(s *torch.Scope, name string, t *torch.Tensor) error {
	v := t
	if t.DType().IsFloat8() {
		v = t.To(s, torch.Float32)
	}
	if v.IsFinite(s).All(s).Item() == 0 {
		return fmt.Errorf("%s: merged with the adapter it overflows in %s: want another type, or a smaller LoRA weight", quote.Text(name), t.DType())
	}
	return nil
}

// Names implements nn.Source.
func (m merged) Names() iter.Seq[string] { return m.Source.Names() }
