package recipe

import (
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/training/dataset"
)

// user is a part of a run with options of its own: its method, network, distance, data or evaluations. An option that no part declares is used
// by every run.
type user struct {
	what  string                       // "the method ct"
	uses  []string                     // its options
	kind  []string                     // the options of all parts of its kind
	other func(option string) []string // the parts of its kind that use the option; nil: see by
	by    string                       // the option that has to be set, for those of kind to be used
}

// users lists the parts of the run. The network is missing until the model that the run starts from has been read.
func (r *Run) users() []user {
	method := user{what: "the method " + r.Method.Spec().Name, uses: uses(r.Method), other: UsedBy}
	for _, m := range Methods() {
		method.kind = append(method.kind, uses(m)...)
	}
	list := []user{method}
	preset := r.Network
	if preset == "" && !r.starts() && r.teacher() == "" {
		preset = network.Presets()[0].Name
	}
	if p, err := network.PresetNamed(preset); err == nil {
		u := user{what: "the network " + p.Name, uses: sizes(p), other: func(option string) (names []string) {
			for _, other := range network.Presets() {
				if slices.Contains(sizes(other), option) {
					names = append(names, other.Name)
				}
			}
			return names
		}}
		for _, other := range network.Presets() {
			u.kind = append(u.kind, sizes(other)...)
		}
		list = append(list, u)
	}
	metric := valueOf[string](r, "distance")
	if d, ok := declared("distance"); ok && metric == "" {
		metric = d.Default
	}
	distance := user{what: "the distance " + metric, kind: []string{"lpips", "lpips-resize"}, other: func(string) []string { return []string{lpipsName} }}
	if metric == lpipsName {
		distance.uses = distance.kind
	}
	data := user{what: "the data " + r.Data, kind: []string{"data-dir"}, other: func(string) []string { return dataset.Looked() }}
	if slices.Contains(dataset.Looked(), r.Data) {
		data.uses = data.kind
	}
	evaluations := user{what: "a run without evaluations", kind: evalOptions, by: "eval-every"}
	if r.EvalEvery > 0 {
		evaluations.uses = evaluations.kind
	}
	return append(list, distance, data, evaluations)
}

// evalOptions are the options of evaluations, which there are none of without eval-every.
var evalOptions = []string{"eval-data", "eval-n", "eval-steps", "eval-features"}

// sizes lists a network's options.
func sizes(p network.Preset) (names []string) {
	for _, o := range options.Of(p.Options()) {
		names = append(names, o.Name)
	}
	return names
}

// uses lists the options that the method uses, except those that all methods use.
func uses(m Method) (all []string) {
	for _, o := range options.Of(m) {
		all = append(all, o.Name)
	}
	s := m.Spec()
	if !s.Stages {
		all = append(all, "lr-decay")
	}
	if s.Guidable {
		all = append(all, "label-dropout")
	}
	return all
}

// UsedBy lists the methods that use an option; nil: all do.
func UsedBy(option string) (names []string) {
	for _, m := range Methods() {
		if slices.Contains(uses(m), option) {
			names = append(names, m.Spec().Name)
		}
	}
	return names
}

// Unused returns an error if the run does not use the option, whatever its value.
func (r Run) Unused(option string) error {
	if err := r.sound(); err != nil {
		return err
	}
	if r.Method == nil {
		r.Method = r.byDefault()
	}
	for _, u := range r.users() {
		if slices.Contains(u.kind, option) && !slices.Contains(u.uses, option) {
			if u.by != "" {
				return usage(option, "%s: %s does not use this option: %s", name(option), quote.Text(u.what), set(u.by, "N"))
			}
			return usage(option, "%s: %s does not use this option, only %s", name(option), quote.Text(u.what), quote.Text(strings.Join(u.other(option), ", ")))
		}
	}
	return nil
}

// used returns an error for an unused option with another value than its default.
func (r *Run) used() error {
	for _, o := range r.options() {
		if o.IsZero() || o.IsDefault(o.Value()) {
			continue
		}
		if err := r.Unused(o.Name); err != nil {
			return err
		}
	}
	for _, option := range slices.Sorted(maps.Keys(r.sized)) {
		if err := r.Unused(option); err != nil {
			return err
		}
	}
	return nil
}
