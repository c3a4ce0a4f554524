package unet2d

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
)

// SampleShape returns the shape of one sample, [C, H, W].
func (c Config) SampleShape() []int { return []int{c.InChannels, c.Height, c.Width} }

// Inputs returns the conditioning inputs.
func (c Config) Inputs() models.Inputs {
	return models.Inputs{Classes: c.Classes, Null: c.NullLabel, Until: c.Until, Guidance: c.Guidance, Dropout: c.Dropout}
}

// WithInputs returns a copy with these conditioning inputs.
func (c Config) WithInputs(in models.Inputs) Config {
	c.Classes, c.NullLabel, c.Until, c.Guidance, c.Dropout = in.Classes, in.Null, in.Until, in.Guidance, in.Dropout
	c.ClassLabels = c.ClassLabels && in.Classes > 0
	return c
}

// Summary describes the network in one line, without its conditioning inputs.
func (c Config) Summary() string {
	var kinds []Block
	for _, b := range slices.Concat(c.Down, c.Up) {
		if !slices.Contains(kinds, b) {
			kinds = append(kinds, b)
		}
	}
	return fmt.Sprintf("UNet2DModel, channels %v, blocks per level %d, %v", c.Channels, c.Layers, kinds)
}

// Options size a U-Net for square images. Zero fields are chosen by the image size.
type Options unet.Options

// Config returns a U-Net of the shape of DDPM's (Ho et al. 2020) for square images with the given channels and side in pixels, and fills in
// the options that it chose: strided convolutions and interpolation between the levels, one attention head.
func (o *Options) Config(channels, side int) Config {
	by := (*unet.Options)(o).DDPMPP(channels, side)
	c := Config{Height: side, InChannels: channels, Layers: by.Blocks, NormGroups: 32, NormEps: 1e-6, PadAfter: true, SinFirst: true, FreqShift: 1}
	for c.NormGroups > 1 && by.Channels%c.NormGroups != 0 {
		c.NormGroups /= 2
	}
	n := len(by.Mult)
	c.Down, c.Up = make([]Block, n), make([]Block, n)
	for i, m := range by.Mult {
		c.Channels = append(c.Channels, by.Channels*m)
		c.Down[i], c.Up[n-1-i] = DownBlock, UpBlock
		if slices.Contains(by.Attention, side>>i) {
			c.Down[i], c.Up[n-1-i] = AttnDownBlock, AttnUpBlock
		}
	}
	return c.WithDefaults()
}

// Options returns the preset's name and the size of c.
func (c Config) Options() (preset string, o Options) {
	o = Options{Channels: c.Channels[0], Blocks: c.Layers, Attention: []int{}}
	for i, ch := range c.Channels {
		o.Mult = append(o.Mult, max(1, ch/c.Channels[0]))
		if downs[c.Down[i]].attends {
			o.Attention = append(o.Attention, c.Height>>i)
		}
	}
	return "unet2d", o
}
