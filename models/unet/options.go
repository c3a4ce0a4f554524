package unet

// Options size a U-Net for square images. Zero fields are chosen by the image size.
type Options struct {
	Channels  int   `option:"channels" default:"32" range:"[2,4096]" help:"channels of the first level, an even number"`
	Mult      []int `option:"mult" range:"[1,64]" help:"channels of each level, in units of the first's; each level halves the image (default: 1,2,2, with fewer levels where the size cannot be halved)"`
	Blocks    int   `option:"blocks" default:"2" range:"[1,64]" help:"residual blocks per level"`
	Attention []int `option:"attention" range:"[1,]" order:"any" help:"image sizes with self-attention, or none (default: the smallest, if 16 pixels or less)"`
}

// fit chooses the levels and the attention for images of a size.
func (o *Options) fit(side int) {
	if o.Mult == nil {
		o.Mult = []int{1, 2, 2}
		for len(o.Mult) > 1 && side%(1<<(len(o.Mult)-1)) != 0 {
			o.Mult = o.Mult[:len(o.Mult)-1]
		}
	}
	if o.Attention == nil {
		o.Attention = []int{}
		if smallest := side >> max(0, len(o.Mult)-1); smallest <= 16 {
			o.Attention = []int{smallest}
		}
	}
}

// DDPMPP returns a [DDPMPP] for square images with the given channels and side in pixels, and fills in the options that it chose.
func (o *Options) DDPMPP(channels, side int) Config {
	o.fit(side)
	return DDPMPP(side, channels, o.Channels, o.Mult, o.Blocks, o.Attention...)
}

// NCSNPP returns an [NCSNPP] in the same way, with Fourier frequencies suitable for consistency training.
func (o *Options) NCSNPP(channels, side int) Config {
	o.fit(side)
	c := NCSNPP(side, channels, o.Channels, o.Mult, o.Blocks, o.Attention...)
	c.FourierScale = 0.02 // neighbouring noise levels need similar embeddings
	return c
}

// ADM returns an [ADM] in the same way. If the network is smaller than the published ones, so are its attention heads and norm groups.
func (o *Options) ADM(channels, side int) Config {
	o.fit(side)
	c := ADM(side, channels, o.Channels, o.Mult, o.Blocks, o.Attention...)
	for o.Channels%c.HeadDim != 0 {
		c.HeadDim /= 2
	}
	for o.Channels%c.NormGroups != 0 {
		c.NormGroups /= 2
	}
	return c
}

// Options returns the name of the preset that is closest to c, and its size.
func (c Config) Options() (preset string, o Options) {
	o = Options{Channels: c.Channels, Mult: c.Mult, Blocks: c.Blocks, Attention: c.Attention}
	switch {
	case c.ScaleShift:
		return "adm", o
	case c.ResidualInput:
		return "ncsnpp", o
	}
	return "ddpmpp", o
}
