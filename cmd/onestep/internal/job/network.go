package job

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/models/network"
)

// Networks returns the names of the networks that a run can have.
func Networks() []string {
	var names []string
	for _, p := range network.Presets() {
		names = append(names, p.Name)
	}
	return names
}

// AboutNetworks returns a line for each network.
func AboutNetworks() string {
	var b strings.Builder
	for _, p := range network.Presets() {
		var defaults []string
		for _, o := range options.Of(p.Options()) {
			if o.Default != "" {
				defaults = append(defaults, "--"+o.Name+" "+o.Default)
			}
		}
		fmt.Fprintf(&b, "  %-7s %s; default %s\n", p.Name, p.About, strings.Join(defaults, ", "))
	}
	return b.String()
}

// NetworkOption is an option of some of the networks.
type NetworkOption struct {
	options.Option
	Help string // for each network that has it, with defaults
}

// NetworkOptions returns the options of all networks, each once.
func NetworkOptions() []NetworkOption {
	type line struct{ text, names string }
	var all []NetworkOption
	lines := map[string][]line{}
	presets := network.Presets()
	for _, p := range presets {
		for _, o := range options.Of(p.Options()) {
			text := o.Help
			if o.Default != "" {
				text += " (default " + o.Default + ")"
			}
			of := lines[o.Name]
			switch {
			case of == nil:
				all = append(all, NetworkOption{Option: o})
				of = []line{{text, p.Name}}
			case of[len(of)-1].text == text:
				of[len(of)-1].names += ", " + p.Name
			default:
				of = append(of, line{text, p.Name})
			}
			lines[o.Name] = of
		}
	}
	for i, o := range all {
		var texts []string
		for _, l := range lines[o.Name] {
			texts = append(texts, l.names+": "+l.text)
		}
		all[i].Help = strings.Join(texts, "; ")
	}
	return all
}

func networkNamed(name string) (network.Preset, error) {
	p, err := network.PresetNamed(name)
	if err != nil {
		return p, usage("--network: %v", err)
	}
	return p, nil
}

// networkOptions are the names of a preset's options.
func networkOptions(p network.Preset) (names []string) {
	for _, o := range options.Of(p.Options()) {
		names = append(names, o.Name)
	}
	return names
}

// shape fits the network to images of that many colours and pixels, and fills in what was left to it.
func (o *Train) shape(colors, side int) (network.Config, error) {
	if o.Network == "" {
		o.Network = Networks()[0]
	}
	p, err := networkNamed(o.Network)
	if err != nil {
		return network.Config{}, err
	}
	o.Resolution, o.Colors = side, colors
	if err := o.used(); err != nil {
		return network.Config{}, err
	}
	size := p.Options()
	for _, option := range options.Of(size) {
		if given := o.field(option); !given.IsZero() {
			reflect.ValueOf(option.Pointer()).Elem().Set(given)
		}
	}
	cfg, err := p.Config(size, colors, side)
	if err != nil {
		return cfg, err
	}
	for _, option := range options.Of(size) {
		o.field(option).Set(reflect.ValueOf(option.Value()))
	}
	cfg = cfg.With(cfg.Classes(), o.Dropout)
	if err := cfg.Validate(); err != nil {
		_, rest, _ := strings.Cut(err.Error(), ": ")
		return cfg, usage("%s", rest)
	}
	return cfg, nil
}

// Pointer returns a pointer to the value of a network's option in the run's options.
func (o *Train) Pointer(option options.Option) any { return o.field(option).Addr().Interface() }

// field is the field of the run's options that has an option of a network.
func (o *Train) field(option options.Option) reflect.Value {
	v := reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name == option.Key() {
			return v.Field(i)
		}
	}
	panic("no option of runs is called " + option.Name)
}
