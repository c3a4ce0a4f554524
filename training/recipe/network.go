package recipe

import (
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
)

func presetNamed(preset string) (network.Preset, error) {
	p, err := network.PresetNamed(preset)
	if err != nil {
		return p, usage("network", "%s: %w", name("network"), err)
	}
	return p, nil
}

// given returns the options of the run's network that were set, with their values.
func (r *Run) given() map[string]any {
	all := map[string]any{}
	if r.Size != nil {
		for _, o := range options.Of(r.Size) {
			if !o.IsZero() {
				all[o.Name] = o.Value()
			}
		}
	}
	for option, v := range r.sized {
		all[option] = v
	}
	return all
}

// shape returns the configuration of the network for images of that many channels and pixels, and fills in its options.
func (r *Run) shape(colors, side int) (network.Config, error) {
	if r.Network == "" {
		r.Network = network.Presets()[0].Name
	}
	p, err := presetNamed(r.Network)
	if err != nil {
		return network.Config{}, err
	}
	r.Resolution, r.Colors = side, colors
	size := p.Options()
	for option, v := range r.given() {
		o, ok := options.Named(size, option)
		if !ok {
			return network.Config{}, r.Unused(option)
		}
		o.Put(v)
	}
	cfg, err := p.Config(size, colors, side)
	if err != nil {
		return cfg, err
	}
	r.Size, r.sized = size, nil
	in := cfg.Inputs()
	in.Dropout = r.Dropout
	cfg = cfg.With(in)
	if err := cfg.Validate(); err != nil {
		_, rest, _ := strings.Cut(err.Error(), ": ")
		return cfg, ofNetwork(options.Of(size), rest)
	}
	return cfg, nil
}

// ofNetwork turns the error of a network's configuration, such as "channels: want an even number", into one of the option that it is about.
func ofNetwork(all []options.Option, text string) error {
	head, rest, _ := strings.Cut(text, ":")
	for _, o := range all {
		at := strings.Index(head, o.Name)
		end := at + len(o.Name)
		if at < 0 || at > 0 && head[at-1] != ' ' || end < len(head) && head[end] != ' ' && head[end] != ')' {
			continue
		}
		return usage(o.Name, "%s%s%s:%s", head[:at], name(o.Name), head[end:], rest)
	}
	return usage("network", "%s: %s", name("network"), text)
}

// describe fills in the options of a network that was read from a file. Options that do not match it are errors.
func (r *Run) describe(by string, c network.Config) error {
	p, size, err := c.Preset()
	if err != nil {
		return err
	}
	refuse := func(option, wants, is string) error {
		return usage(option, "%s %s: the run starts from the network of %s %s, which has %s: leave the option out, or %s for a new network",
			name(option), quote.Text(wants), name(by), quote.Path(r.Init), quote.Text(is), set("init", "none"))
	}
	if r.Network != "" && r.Network != p.Name {
		return refuse("network", r.Network, p.Name)
	}
	for option, v := range r.given() {
		if o, ok := options.Named(size, option); !ok {
			return refuse(option, options.Text(v), "none")
		} else if !o.Same(v) {
			return refuse(option, options.Text(v), o.Text())
		}
	}
	r.Network, r.Size, r.sized = p.Name, size, nil
	return nil
}
