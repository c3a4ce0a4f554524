package mlp

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a multilayer perceptron. New fills in the defaults of zero fields: see WithDefaults.
type Config struct {
	Shape      []int   `json:"shape"`                 // of one sample, such as [2] or [1, 14, 14]; nil: [2]
	Width      int     `json:"width"`                 // features of a hidden layer; 0: 128
	Depth      int     `json:"depth"`                 // hidden layers; 0: 3
	Freqs      int     `json:"freqs,omitempty"`       // number of frequencies of an element's sines and cosines: 1, 2, 4, … radians per unit; 0: 3
	NoiseFreqs int     `json:"noise_freqs,omitempty"` // the same of the labels; 0: 2 (more do not extrapolate beyond the trained levels)
	NoiseScale float64 `json:"noise_scale,omitempty"` // factor of noise labels and Until, such as 0.001 for 250·ln(t); 0: 1

	Classes  int     `json:"classes,omitempty"`  // number of classes, besides the null class: see NullClass; 0: unconditional
	Until    bool    `json:"until,omitempty"`    // the network takes the end of a jump: models.Cond.Until
	Guidance bool    `json:"guidance,omitempty"` // the network takes a guidance scale: models.Cond.Guidance
	Dropout  float64 `json:"dropout,omitempty"`  // dropout probability after every hidden layer, applied if models.Cond.Dropout is set
}

// WithDefaults returns the configuration with every zero field set to its default.
func (c Config) WithDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Shape == nil {
		c.Shape = []int{2}
	}
	def(&c.Width, 128)
	def(&c.Depth, 3)
	def(&c.Freqs, 3)
	def(&c.NoiseFreqs, 2)
	if c.NoiseScale == 0 {
		c.NoiseScale = 1
	}
	return c
}

// The limits of Validate, far more than toy problems need: 4 GiB of weights in float32, an image of 2048×2048.
const (
	maxWeights  = 1 << 30
	maxElements = 1 << 22
)

// Validate reports the first invalid field of a configuration with its defaults filled in. New can build every configuration that
// passes, memory permitting.
func (c Config) Validate() error {
	within := func(what string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("mlp: %s: want %d to %d, got %d", what, lo, hi, v)
		}
		return nil
	}
	checks := []error{
		within("dimensions of a sample (the length of shape)", len(c.Shape), 1, 3),
		within("width", c.Width, 1, 1<<16),
		within("depth", c.Depth, 1, 64),
		within("freqs", c.Freqs, 1, 16),
		within("noise_freqs", c.NoiseFreqs, 1, 16),
		within("classes", c.Classes, 0, 1<<20),
	}
	for _, d := range c.Shape {
		checks = append(checks, within("shape", d, 1, 1<<16))
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	switch {
	case len(c.Shape) == 2:
		return fmt.Errorf("mlp: shape: want the shape of one sample, [elements] or [channels, height, width], got %v", c.Shape)
	case c.elements() > maxElements:
		return fmt.Errorf("mlp: shape %v has %d elements, the limit is %d", c.Shape, c.elements(), maxElements)
	case !(c.NoiseScale > 0 && c.NoiseScale <= 1e6):
		return fmt.Errorf("mlp: noise_scale: want a positive number of at most 1e6, got %g", c.NoiseScale)
	case !(c.Dropout >= 0 && c.Dropout < 1):
		return fmt.Errorf("mlp: dropout: want a probability in [0, 1), got %g", c.Dropout)
	}
	if n := c.Count(); n > maxWeights {
		return fmt.Errorf("mlp: the network would have %d weights, the limit is %d", n, maxWeights)
	}
	return nil
}

// NullClass is the label of the null class, which replaces labels in training (label dropout) and is the unconditional input of
// classifier-free guidance.
func (c Config) NullClass() int { return c.Classes }

// elements is the number of a sample's elements.
func (c Config) elements() int {
	n := 1
	for _, d := range c.Shape {
		n *= d
	}
	return n
}

// inputs is the number of input features of the first layer: each number, and its sines and cosines.
func (c Config) inputs() int {
	labels := 1
	for _, on := range []bool{c.Until, c.Guidance} {
		if on {
			labels++
		}
	}
	return c.elements()*(1+2*c.Freqs) + labels*(1+2*c.NoiseFreqs)
}

// Shapes returns the names and shapes of the network's tensors without allocating them.
func (c Config) Shapes() []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&MLP{config: c.WithDefaults()}).build(p) })
}

// Count returns the number of the network's weights without allocating them.
func (c Config) Count() int { return nn.Count(c.Shapes()) }

// clone returns the configuration with its own copy of the shape.
func (c Config) clone() Config {
	c.Shape = slices.Clone(c.Shape)
	return c
}
