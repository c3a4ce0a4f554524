package unet

// Options size a U-Net for square images. What is zero is chosen by the image size.
type Options struct {
	Channels  int   `option:"channels" default:"32" range:"[2,4096]" help:"channels of the first level, an even number"`
	Mult      []int `option:"mult" range:"[1,64]" help:"channels of each level, in units of the first's; each level halves the image (default: 1,2,2, with fewer levels where the size cannot be halved)"`
	Blocks    int   `option:"blocks" default:"2" range:"[1,64]" help:"residual blocks per level"`
	Attention []int `option:"attention" range:"[1,]" order:"any" help:"image sizes with self-attention, or none (default: the smallest, if 16 pixels or less)"`
}

// fit chooses levels for images of that size, and where they attend.
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

// DDPMPP returns a [DDPMPP] for images of that many channels, height and width in pixels, and fills in what it chose.
func (o *Options) DDPMPP(channels, side int) Config {
	o.fit(side)
	return DDPMPP(side, channels, o.Channels, o.Mult, o.Blocks, o.Attention...)
}

// NCSNPP returns an [NCSNPP], likewise, with Fourier frequencies that consistency training can use.
func (o *Options) NCSNPP(channels, side int) Config {
	o.fit(side)
	c := NCSNPP(side, channels, o.Channels, o.Mult, o.Blocks, o.Attention...)
	c.FourierScale = 0.02 // neighbouring noise levels have to look alike
	return c
}

// ADM returns an [ADM], likewise, whose attention heads and groups are smaller than the published ones where the network is.
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

// Options returns the name of the preset that c is nearest to, and its size.
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
