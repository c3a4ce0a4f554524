package network

import (
	"errors"

	"github.com/onestep-go/onestep/internal/suggest"
)

// Preset is a published architecture with a few size options, for training from random weights.
type Preset struct {
	Name  string // such as "ddpmpp"
	About string // a short description with its source

	options func() any
	config  func(o any, channels, side int) (Spec, error)
}

// Presets returns all presets; the first is the default.
func Presets() []Preset {
	var all []Preset
	for _, k := range kinds() {
		all = append(all, k.presets()...)
	}
	return all
}

// PresetNamed returns the preset of that name.
func PresetNamed(name string) (Preset, error) {
	var names []string
	for _, p := range Presets() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Preset{}, errors.New(suggest.OneOf(name, names)) //quote: our own names
}

// Options returns a pointer to a struct of the preset's options with their defaults, such as a *unet.Options. The tags of its fields
// hold the options' names, defaults and help.
func (p Preset) Options() any { return p.options() }

// Config returns the network for square images with the given channels and side in pixels. Options that are zero are chosen by the
// image size and filled in. It panics if p is the zero value.
func (p Preset) Config(options any, channels, side int) (Config, error) {
	c, err := p.config(options, channels, side)
	return Config{c}.WithDefaults(), err
}

// Preset returns the preset that is closest to c, and a pointer to the options that give c's size.
func (c Config) Preset() (Preset, any, error) {
	if err := c.one(); err != nil {
		return Preset{}, nil, err
	}
	c = c.WithDefaults()
	name, options := kindOf(c.Net).size(c.Net)
	p, err := PresetNamed(name)
	return p, options, err
}
