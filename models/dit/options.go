package dit

// Options size a transformer for square images. Zero fields are chosen by the image size.
type Options struct {
	Channels int `option:"channels" default:"192" range:"[2,4096]" help:"features of a token"`
	Blocks   int `option:"blocks" default:"6" range:"[1,64]" help:"transformer blocks"`
	Patch    int `option:"patch" range:"[1,]" help:"height and width of a patch in pixels (default: as for 16 patches per side)"`
}

// Config returns the network for square images with the given channels and side in pixels, and fills in the options that it chose.
func (o *Options) Config(channels, side int) Config {
	if o.Patch == 0 {
		// Up to 16 patches per side, if the size allows it.
		for o.Patch = max(1, side/16); side%o.Patch != 0; {
			o.Patch++
		}
	}
	return Config{Resolution: side, InChannels: channels, Patch: o.Patch, Width: o.Channels, Depth: o.Blocks}
}

// Options returns the name of c's preset, and its size.
func (c Config) Options() (preset string, o Options) {
	return "dit", Options{Channels: c.Width, Blocks: c.Depth, Patch: c.Patch}
}
