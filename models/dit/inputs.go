package dit

import (
	"fmt"

	"github.com/onestep-go/onestep/models"
)

// SampleShape returns the shape of one sample, [C, H, W].
func (c Config) SampleShape() []int { return []int{c.InChannels, c.Resolution, c.Resolution} }

// Inputs returns the conditioning inputs.
func (c Config) Inputs() models.Inputs {
	return models.Inputs{Classes: c.Classes, Null: c.Classes > 0, Until: c.Until, Guidance: c.Guidance, Dropout: c.Dropout}
}

// WithInputs returns a copy with these conditioning inputs. A network with classes always has a null class.
func (c Config) WithInputs(in models.Inputs) Config {
	c.Classes, c.Until, c.Guidance, c.Dropout = in.Classes, in.Until, in.Guidance, in.Dropout
	return c
}

// Summary describes the network in one line, without its conditioning inputs.
func (c Config) Summary() string {
	return fmt.Sprintf("DiT, depth %d, width %d, patches of %d×%d pixels", c.Depth, c.Width, c.Patch, c.Patch)
}
