package recipe

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
)

// Option is an option of runs, as declared by the tags of a field of [Run], of a method or of a network's options; see package options.
type Option struct {
	options.Option
	Of []Owner // the methods or networks that have it; nil: all runs have it
}

// Owner is a method or a network with options of its own.
type Owner struct{ Kind, Name string } // such as "method", "ict"

// Options lists the options of all runs, methods and networks, each once.
func Options() []Option { return slices.Clone(table()) }

// table lists the declared options. A method's field with only a name in its tag is the option that an earlier method declares.
var table = sync.OnceValue(func() []Option {
	var all []Option
	add := func(o options.Option, owner *Owner) {
		i := slices.IndexFunc(all, func(p Option) bool { return p.Name == o.Name })
		if i < 0 {
			i, all = len(all), append(all, Option{Option: o})
		}
		if owner != nil {
			all[i].Of = append(all[i].Of, *owner)
		}
	}
	for _, o := range options.Of(new(Run)) {
		add(o, nil)
		if o.Name != "network" {
			continue
		}
		for _, p := range network.Presets() {
			for _, o := range options.Of(p.Options()) {
				add(o, &Owner{"network", p.Name})
			}
		}
	}
	for _, m := range Methods() {
		for _, o := range options.Of(m) {
			add(o, &Owner{"method", m.Spec().Name})
		}
	}
	return all
})

// declared finds an option by its name.
func declared(name string) (Option, bool) {
	i := slices.IndexFunc(table(), func(o Option) bool { return o.Name == name })
	if i < 0 {
		return Option{}, false
	}
	return table()[i], true
}

// declares finds an option by its name, also one of a program's own method.
func (r *Run) declares(name string) (Option, bool) {
	if r.Method != nil && !registered(r.Method) {
		for _, o := range r.ofMethod() {
			if o.Name == name {
				return Option{o, []Owner{{"method", r.Method.Spec().Name}}}, true
			}
		}
	}
	return declared(name)
}

// options lists the options of the run, its method and its network, with their values.
func (r *Run) options() []options.Option {
	all := append(options.Of(r), r.ofMethod()...)
	if r.Size != nil {
		all = append(all, options.Of(r.Size)...)
	}
	return all
}

// ofMethod lists the options of the run's method, with declarations that are shared with earlier methods filled in.
func (r *Run) ofMethod() []options.Option {
	if r.Method == nil {
		return nil
	}
	all := options.Of(r.Method)
	for i, o := range all {
		if d, ok := declared(o.Name); ok && o.Help == "" {
			o.Help, o.Default, o.Choices, o.Range, o.Called = d.Help, d.Default, d.Choices, d.Range, d.Called
			all[i] = o
		}
	}
	return all
}

// option finds one of the run's options by its name.
func (r *Run) option(name string) (options.Option, bool) {
	all := r.options()
	i := slices.IndexFunc(all, func(o options.Option) bool { return o.Name == name })
	if i < 0 {
		return options.Option{}, false
	}
	return all[i], true
}

// valueOf returns an option's value, or the zero value if the run has no such option.
func valueOf[T any](r *Run, name string) (v T) {
	if o, ok := r.option(name); ok {
		v, _ = o.Value().(T)
	}
	return v
}

// Set sets an option to a value of its type, or to its default if v is nil. An int is accepted for any number. A run without a method gets
// the default one. The option "method" replaces the method by the one of that name, without options; the name of a program's own method
// that the run has leaves it unchanged.
func (r *Run) Set(option string, v any) error {
	if err := r.sound(); err != nil {
		return err
	}
	if m, ok := v.(string); ok && option == "method" {
		if r.Method != nil && !registered(r.Method) && r.Method.Spec().Name == m {
			return nil
		}
		method, err := Named(m)
		if err == nil {
			r.Method = method
		}
		return err
	}
	if r.Method == nil {
		r.Method = r.byDefault()
	}
	d, known := r.declares(option)
	if !known {
		return usage(option, "%s: there is no such option", quote.Text(option))
	}
	o, ok := r.option(option)
	if !ok {
		o = d.Option
	}
	if v != nil {
		if v = asType(v, o.Type()); reflect.TypeOf(v) != o.Type() {
			return usage(option, "%s: want %s, got %s of type %T", name(option), o.Wants(), quote.Quoted(fmt.Sprint(v)), v)
		}
		if err := o.Check(v); err != nil {
			return usage(option, "%s: %w", name(option), err)
		}
	}
	switch {
	case ok:
		o.Put(v)
	case d.Of[0].Kind == "network": // the run's network is not known yet
		if r.sized == nil {
			r.sized = map[string]any{}
		}
		if r.sized[option] = v; v == nil {
			delete(r.sized, option)
		}
	case v != nil:
		return r.Unused(option)
	}
	return nil
}

// asType converts an int, such as the constant 1, to the numeric type t if that loses nothing.
func asType(v any, t reflect.Type) any {
	switch n := v.(type) {
	case int:
		switch {
		case t == reflect.TypeFor[float64]() && int(float64(n)) == n:
			return float64(n)
		case t == reflect.TypeFor[uint64]() && n >= 0:
			return uint64(n)
		case t == reflect.TypeFor[int64]():
			return int64(n)
		}
	case []int:
		if t != reflect.TypeFor[[]float64]() {
			return v
		}
		all := make([]float64, len(n))
		for i, n := range n {
			all[i] = float64(n)
		}
		return all
	}
	return v
}

// Values returns the options of the run that have a value, by their names. It is nil if the Method or Size of a program's own is not sound:
// see [Run.Resolve], which returns the error.
func (r Run) Values() Values {
	if r.sound() != nil {
		return nil
	}
	r = r.copied()
	all := Values{"method": r.Method.Spec().Name}
	for _, o := range r.options() {
		if v := o.Value(); v != nil && !o.IsZero() {
			all[o.Name] = v
		}
	}
	maps.Copy(all, r.sized)
	return all
}

// fill sets options without a value to their defaults.
func fill(all []options.Option) {
	for _, o := range all {
		if o.Default != "" && o.IsZero() {
			if err := o.Set(o.Default); err != nil {
				panic(err) // a mistake in a tag
			}
		}
	}
}

// check returns an error for a value out of range. Zero stands for no value.
func (r *Run) check() error {
	for _, o := range r.options() {
		if v := o.Value(); v != nil && !o.IsZero() {
			if err := o.Check(v); err != nil {
				return usage(o.Name, "%s: %w", name(o.Name), err)
			}
		}
	}
	return nil
}

// key returns an option's name in JSON.
func key(option string) string { return strings.ReplaceAll(option, "-", "_") }

// dashed returns an option's name from that in JSON.
func dashed(key string) string { return strings.ReplaceAll(key, "_", "-") }
