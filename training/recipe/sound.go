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

// registered tells whether a method is one of this package's.
func registered(m Method) bool {
	return slices.ContainsFunc(methods, func(of func() Method) bool { return reflect.TypeOf(of()) == reflect.TypeOf(m) })
}

// reserved are names that a run has besides those of its options.
var reserved = append([]string{"method", "out", "resume", "extend", "duration"}, told...)

// shared are options that a run reads of any method which has them.
var shared = []string{"teacher", "guidance", "distance", "lpips", "lpips-resize"}

// sound refuses a method or a size of a network that is put together in a way which cannot work, whatever the values of options.
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

// soundSize refuses what is not the options of a network.
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
		return usage("network", "%s: want its size, if any, to be a pointer of the type %s that is not nil, got one of the type %T",
			name("network"), strings.Join(slices.Compact(types), " or "), r.Size)
	}
	return nil
}

// soundSpec refuses a specification that lacks what every run needs.
func (r *Run) soundSpec() error {
	s := r.Method.Spec()
	lacks := func(what string) error {
		return usage("method", "%s %s: the Spec of %T has no %s", name("method"), quote.Text(s.Name), r.Method, what)
	}
	switch {
	case s.Name == "":
		return lacks("Name")
	case slices.Contains(Names(), s.Name):
		return usage("method", "%s %s: %T has the name of a method of this package: give it another", name("method"), quote.Text(s.Name), r.Method)
	case len(s.Forms) == 0:
		return lacks("Forms")
	case s.Function == nil:
		return lacks("Function")
	}
	return nil
}

// soundOptions refuses options of a program's own method that are in the way of others, or that have tags which contradict each other.
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
			return as("it is declared twice")
		case slices.Contains(reserved, o.Name):
			return as("the name is one that runs have: want another")
		case known && d.Of == nil:
			return as("all runs have an option of that name: want another")
		case known && d.Of[0].Kind == "network":
			return as("the network %s has an option of that name: want another", d.Of[0].Name)
		case slices.Contains(shared, o.Name) && d.Type() != o.Type():
			return as("it means the same in all methods: want the type %v, got %v", d.Type(), o.Type())
		}
		met = append(met, o.Name)
		if o.Default == "" {
			continue
		}
		if _, err := o.Parse(o.Default); err != nil {
			return as("its default: %w", err)
		}
	}
	return nil
}
