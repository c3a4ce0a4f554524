package dit

// S2 is DiT-S/2 of Peebles & Xie 2023, table 1, at the given size, unconditional. The paper's other patch sizes are the same
// networks with Patch 4 and 8. The paper's latents are 32×32 with 4 channels, and its outputs have 8 channels, with a learned variance.
func S2(resolution, channels int) Config { return preset(resolution, channels, 384, 12, 6) }

// B2 is DiT-B/2; see S2.
func B2(resolution, channels int) Config { return preset(resolution, channels, 768, 12, 12) }

// L2 is DiT-L/2; see S2.
func L2(resolution, channels int) Config { return preset(resolution, channels, 1024, 24, 16) }

// XL2 is DiT-XL/2; see S2.
func XL2(resolution, channels int) Config { return preset(resolution, channels, 1152, 28, 16) }

func preset(resolution, channels, width, depth, heads int) Config {
	c := Config{Resolution: resolution, InChannels: channels, Patch: 2, Width: width, Depth: depth, Heads: heads}
	return c.WithDefaults()
}
