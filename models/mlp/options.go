package mlp

// Options size a multilayer perceptron for square images.
type Options struct {
	Channels int `option:"channels" default:"512" range:"[2,4096]" help:"features of a hidden layer"`
	Blocks   int `option:"blocks" default:"3" range:"[1,64]" help:"hidden layers"`
}

// Config returns the network for square images with the given channels and side in pixels.
func (o *Options) Config(channels, side int) Config {
	return Config{Shape: []int{channels, side, side}, Width: o.Channels, Depth: o.Blocks}
}

// Options returns the name of c's preset, and its size.
func (c Config) Options() (preset string, o Options) {
	return "mlp", Options{Channels: c.Width, Blocks: c.Depth}
}
