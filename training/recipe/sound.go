package recipe

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
)

// registered reports whether a method is one of this package's.
func registered(m Method) bool {
	return slices.ContainsFunc(methods, func(of func() Method) bool { return reflect.TypeOf(of()) == reflect.TypeOf(m) })
}

// reserved are names that a program's own options cannot have.
var reserved = append([]string{"method", "out", "resume", "extend", "duration"}, told...)

// shared are options that have the same meaning in all methods.
var shared = []string{"teacher", "guidance", "distance", "lpips", "lpips-resize"}

// sound returns an error for a Method or Size that a program has defined or set wrongly, whatever the values of options.
func (r *Run) sound() error {
	if err := r.soundSize(); err != nil || r.Method == nil {
		return err
	}
	if _, err := options.List(r.Method); err != nil {
		return usage("method", "%s: %w", name("method"), err)
	}
	if registered(r.Method) {
		return nil
	}
	if err := r.soundSpec(); err != nil {
		return err
	}
	if err := r.soundOptions(); err != nil {
		return usage("method", "%s %s: its option %w", name("method"), quote.Text(r.Method.Spec().Name), err)
	}
	return nil
}

// soundSize returns an error if Size is not a network's options.
func (r *Run) soundSize() error {
	if r.Size == nil {
		return nil
	}
	var types []string
	is := false
	for _, p := range network.Presets() {
		t := reflect.TypeOf(p.Options())
		types = append(types, t.String())
		is = is || t == reflect.TypeOf(r.Size)
	}
	if !is || reflect.ValueOf(r.Size).IsNil() {
		slices.Sort(types)
		return usage("network", "%s: want Size to be nil or a non-nil %s, got a %T",
			name("network"), strings.Join(slices.Compact(types), " or "), r.Size)
	}
	return nil
}

// soundSpec returns an error for an incomplete Spec.
func (r *Run) soundSpec() error {
	s := r.Method.Spec()
	lacks := func(what string) error {
		return usage("method", "%s %s: the Spec of %T has no %s", name("method"), quote.Text(s.Name), r.Method, what)
	}
	switch {
	case s.Name == "":
		return lacks("Name")
	case slices.Contains(Names(), s.Name):
		return usage("method", "%s %s: the name of %T is that of a method of this package: choose another", name("method"), quote.Text(s.Name), r.Method)
	case len(s.Forms) == 0:
		return lacks("Forms")
	case s.Function == nil:
		return lacks("Function")
	}
	return nil
}

// soundOptions returns an error for options of a program's own method whose names are taken or invalid, or whose tags contradict each other.
func (r *Run) soundOptions() error {
	var met []string
	for _, o := range r.ofMethod() {
		d, known := declared(o.Name)
		as := func(format string, args ...any) error {
			return fmt.Errorf("%s: %w", quote.Quoted(o.Name), fmt.Errorf(format, args...))
		}
		switch {
		case o.Name == "" || strings.Trim(o.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			return as("want a name of lower-case letters, digits and dashes")
		case slices.Contains(met, o.Name):
			return as("the option is declared twice")
		case slices.Contains(reserved, o.Name):
			return as("the name is reserved: choose another")
		case known && d.Of == nil:
			return as("all runs have an option of that name: choose another")
		case known && d.Of[0].Kind == "network":
			return as("the network %s has an option of that name: choose another", d.Of[0].Name)
		case slices.Contains(shared, o.Name) && d.Type() != o.Type():
			return as("the option means the same in all methods: want type %v, got %v", d.Type(), o.Type())
		}
		met = append(met, o.Name)
		if o.Default == "" {
			continue
		}
		if _, err := o.Parse(o.Default); err != nil {
			return as("default: %w", err)
		}
	}
	return nil
}
