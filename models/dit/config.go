package dit

import (
	"fmt"

	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a Diffusion Transformer. New fills in the defaults of zero fields: see WithDefaults.
type Config struct {
	Resolution  int `json:"resolution"`             // height and width of the images, in pixels; 0: 32
	InChannels  int `json:"in_channels"`            // 0: 3
	OutChannels int `json:"out_channels,omitempty"` // 0: InChannels
	Patch       int `json:"patch"`                  // height and width of a patch, in pixels; 0: 2
	Width       int `json:"width"`                  // hidden size, features of a token; 0: 384
	Depth       int `json:"depth"`                  // number of blocks; 0: 12
	Heads       int `json:"heads,omitempty"`        // attention heads; 0: Width/64, at least 1
	MLPWidth    int `json:"mlp_width,omitempty"`    // hidden size of a block's MLP; 0: 4·Width

	Freqs         int     `json:"freqs,omitempty"`          // number of sines and cosines of a label's embedding; 0: 256
	EndpointFreqs bool    `json:"endpoint_freqs,omitempty"` // the last frequency is exactly 1/10000, as in diffusers
	MLPNormEps    float64 `json:"mlp_norm_eps,omitempty"`   // epsilon of the norm before a block's MLP; 0: 1e-6, as in all other norms

	Classes  int     `json:"classes,omitempty"`  // number of classes, besides the null class: see NullClass; 0: unconditional
	Until    bool    `json:"until,omitempty"`    // the network takes the end of a jump: models.Cond.Until
	Guidance bool    `json:"guidance,omitempty"` // the network takes a guidance scale: models.Cond.Guidance
	Dropout  float64 `json:"dropout,omitempty"`  // dropout probability after attention and in the MLP, applied if models.Cond.Dropout is set
}

// WithDefaults returns the configuration with every zero field set to its default.
func (c Config) WithDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Resolution, 32)
	def(&c.InChannels, 3)
	def(&c.OutChannels, c.InChannels)
	def(&c.Patch, 2)
	def(&c.Width, 384)
	def(&c.Depth, 12)
	def(&c.Heads, max(1, c.Width/64))
	def(&c.MLPWidth, 4*c.Width)
	def(&c.Freqs, 256)
	if c.MLPNormEps == 0 {
		c.MLPNormEps = normEps
	}
	return c
}

const (
	// maxWeights is the limit of Validate: 32 GiB in float32, several times the largest network of this family.
	maxWeights = 1 << 33
	// maxTokens limits the table of position embeddings, and with it the quadratic cost of attention.
	maxTokens = 1 << 16
)

// Validate reports the first invalid field of a configuration with its defaults filled in. New can build every configuration that
// passes, memory permitting.
func (c Config) Validate() error {
	within := func(what string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("dit: %s: want %d to %d, got %d", what, lo, hi, v)
		}
		return nil
	}
	for _, err := range []error{
		within("resolution", c.Resolution, 1, 4096),
		within("in_channels", c.InChannels, 1, 1024),
		within("out_channels", c.OutChannels, 1, 1024),
		within("patch", c.Patch, 1, 256),
		within("width", c.Width, 4, 1<<14),
		within("depth", c.Depth, 1, 256),
		within("heads", c.Heads, 1, 1024),
		within("mlp_width", c.MLPWidth, 1, 1<<17),
		within("freqs", c.Freqs, 2, 1<<14),
		within("classes", c.Classes, 0, 1<<20),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case c.Resolution%c.Patch != 0:
		return fmt.Errorf("dit: resolution %d is not a multiple of the patch size %d; use a patch size that divides it",
			c.Resolution, c.Patch)
	case c.tokens() > maxTokens:
		return fmt.Errorf("dit: resolution %d with patch size %d has %d tokens, the limit is %d; use larger patches",
			c.Resolution, c.Patch, c.tokens(), maxTokens)
	case c.Width%4 != 0:
		return fmt.Errorf("dit: width: want a multiple of 4, for sines and cosines in two directions, got %d", c.Width)
	case c.Width%c.Heads != 0:
		return fmt.Errorf("dit: width %d is not divisible by the number of attention heads, %d; set heads", c.Width, c.Heads)
	case c.Freqs%2 != 0:
		return fmt.Errorf("dit: freqs: want an even number, for sines and cosines, got %d", c.Freqs)
	case c.EndpointFreqs && c.Freqs < 4:
		return fmt.Errorf("dit: endpoint_freqs: want freqs of at least 4, got %d", c.Freqs)
	case !(c.MLPNormEps > 0 && c.MLPNormEps < 1):
		return fmt.Errorf("dit: mlp_norm_eps: want a number in (0, 1), got %g", c.MLPNormEps)
	case !(c.Dropout >= 0 && c.Dropout < 1):
		return fmt.Errorf("dit: dropout: want a probability in [0, 1), got %g", c.Dropout)
	}
	if n := c.Count() + c.tokens()*c.Width; n > maxWeights {
		return fmt.Errorf("dit: the network would have %d weights, with position embeddings; the limit is %d", n, maxWeights)
	}
	return nil
}

// NullClass is the label of the null class, which replaces labels in training (label dropout) and is the unconditional input of
// classifier-free guidance. It is the number of classes, as in the original checkpoints.
func (c Config) NullClass() int { return c.Classes }

// tokens is the number of patches.
func (c Config) tokens() int {
	side := c.Resolution / c.Patch
	return side * side
}

// Shapes returns the names and shapes of the network's tensors without allocating them.
func (c Config) Shapes() []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&DiT{config: c.WithDefaults()}).build(p) })
}

// Count returns the number of the network's weights without allocating them. It does not include the fixed position embeddings;
// published counts do.
func (c Config) Count() int { return nn.Count(c.Shapes()) }
