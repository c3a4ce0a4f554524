package unet

import (
	"fmt"

	"github.com/onestep-go/onestep/models"
)

// SampleShape returns the shape of one sample, [C, H, W].
func (c Config) SampleShape() []int { return []int{c.InChannels, c.Resolution, c.Resolution} }

// Inputs returns the conditioning inputs.
func (c Config) Inputs() models.Inputs {
	return models.Inputs{Classes: c.Classes, Null: c.NullLabel, Until: c.Until, Guidance: c.Guidance, Dropout: c.Dropout}
}

// WithInputs returns a copy with these conditioning inputs.
func (c Config) WithInputs(in models.Inputs) Config {
	c.Classes, c.NullLabel, c.Until, c.Guidance, c.Dropout = in.Classes, in.Null, in.Until, in.Guidance, in.Dropout
	c.LabelsFirst = c.LabelsFirst && in.Classes > 0
	return c
}

// Summary describes the network in one line, without its conditioning inputs.
func (c Config) Summary() string {
	attention := "no attention"
	if len(c.Attention) > 0 {
		attention = fmt.Sprint("attention at ", c.Attention)
	}
	return fmt.Sprintf("U-Net, channels %d ×%v, blocks per level %d, %s", c.Channels, c.Mult, c.Blocks, attention)
}
