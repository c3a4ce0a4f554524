package main

import (
	"errors"
	"math"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/sampling/scheduler"
)

// sampler is a flag for the name of a sampler, of ours or another program's. It holds ours.
type sampler struct{ v *string }

func (s sampler) String() string { return held(s.v) }

func (s sampler) Set(name string) error {
	m, err := scheduler.Named(name)
	if err == nil {
		*s.v = scheduler.NameOf(m)
	}
	return err
}

func (s sampler) Type() string { return "NAME" }

// spacing is a flag for the name of a spacing likewise.
type spacing struct{ v *string }

func (s spacing) String() string { return held(s.v) }

func (s spacing) Set(name string) error {
	plain, err := scheduler.SpacingNamed(name)
	if err == nil {
		*s.v = plain
	}
	return err
}

func (s spacing) Type() string { return "NAME" }

// held is what a flag's variable holds; pflag also asks flags that have none.
func held(v *string) string {
	if v == nil {
		return ""
	}
	return *v
}

// pixelModel is what the --model of commands for models in pixel space takes, besides builtin.
const pixelModel = "a model file, a run directory (its best snapshot, or last one), a diffusers directory (UNet2DModel)"

// dtype is a flag for a type's name, of ours or PyTorch's. It holds ours.
type dtype struct{ choice }

func (d dtype) Set(name string) error { return d.choice.Set(options.DTypeNamed(name)) }

// chosen returns the words that a flag has a choice of.
func chosen(v pflag.Value) (choice, bool) {
	if d, ok := v.(dtype); ok {
		return d.choice, true
	}
	if o, ok := v.(option); ok && o.Choices != nil {
		return choice{new(string), o.Choices}, true
	}
	c, ok := v.(choice)
	return c, ok
}

// guidance is a flag for a guidance scale that may not be given. 0 is none, as in diffusers.
type guidance struct{ v **float64 }

func (g guidance) String() string { return optional(g).String() }

func (g guidance) Set(s string) error {
	n, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil:
		return err
	case !(n >= 0 && n <= math.MaxFloat64):
		return errors.New("below 0")
	}
	*g.v = &n
	return nil
}

func (g guidance) Type() string { return "X" }
