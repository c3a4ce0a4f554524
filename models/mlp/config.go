package mlp

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a multilayer perceptron. The zero value is filled in by New: see WithDefaults.
type Config struct {
	Shape      []int   `json:"shape"`                 // of one sample, such as [2] or [1, 14, 14]; nil: [2]
	Width      int     `json:"width"`                 // features of a hidden layer; 0: 128
	Depth      int     `json:"depth"`                 // hidden layers; 0: 3
	Freqs      int     `json:"freqs,omitempty"`       // of each element's sines and cosines: 1, 2, 4, … radians a unit; 0: 3
	NoiseFreqs int     `json:"noise_freqs,omitempty"` // of the labels' sines and cosines; 0: 2 (more fail beyond the trained levels)
	NoiseScale float64 `json:"noise_scale,omitempty"` // multiplies noise labels and Until, such as 0.001 for 250·ln(t); 0: 1

	Classes  int     `json:"classes,omitempty"`  // number of classes; a label more is for none: see NullClass (0: unconditional)
	Until    bool    `json:"until,omitempty"`    // the network takes the end of a jump: models.Cond.Until
	Guidance bool    `json:"guidance,omitempty"` // the network takes a guidance scale: models.Cond.Guidance
	Dropout  float64 `json:"dropout,omitempty"`  // after every hidden layer, while there is a dropout seed
}

// WithDefaults returns the configuration with every field that was left at zero filled in.
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

// What Validate refuses to exceed, far more than a toy needs: 4 GiB of weights in float32, an image of 2048×2048.
const (
	maxWeights  = 1 << 30
	maxElements = 1 << 22
)

// Validate reports what cannot work, of a configuration with its defaults filled in. What it accepts, New can build, memory
// permitting.
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
		return fmt.Errorf("mlp: the configuration asks for %d weights, the limit is %d", n, maxWeights)
	}
	return nil
}

// NullClass is the label that stands for no class, which training puts in place of some labels and guidance asks for.
func (c Config) NullClass() int { return c.Classes }

// elements is the number of a sample's elements.
func (c Config) elements() int {
	n := 1
	for _, d := range c.Shape {
		n *= d
	}
	return n
}

// inputs is the number of features that the first layer sees: of each number itself, and sines and cosines of it.
func (c Config) inputs() int {
	labels := 1
	for _, on := range []bool{c.Until, c.Guidance} {
		if on {
			labels++
		}
	}
	return c.elements()*(1+2*c.Freqs) + labels*(1+2*c.NoiseFreqs)
}

// Shapes returns the names and shapes of the network's tensors without making them.
func (c Config) Shapes() []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&MLP{config: c.WithDefaults()}).build(p) })
}

// Count returns the number of the network's weights without making any.
func (c Config) Count() int { return nn.Count(c.Shapes()) }

// clone returns the configuration with a shape of its own.
func (c Config) clone() Config {
	c.Shape = slices.Clone(c.Shape)
	return c
}
