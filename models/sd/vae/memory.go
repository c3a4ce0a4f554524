package vae

// Activations estimates the peak number of elements of the decoder's activations, for one image of height h and width w in pixels, decoded
// in tiles of tile pixels if it is larger (0: never). The encoder needs less.
func (c Config) Activations(h, w, tile int) float64 {
	c = c.WithDefaults()
	k := KL{config: c, Tile: tile}
	pixels, whole := tileOf(h, w, k.tile()), float64(h)*float64(w)
	n := len(c.Channels)
	most := 0.0
	ch := float64(c.Channels[n-1])
	for i := n - 1; i >= 0; i-- {
		here := pixels / float64(int(1)<<(2*i))
		out := float64(c.Channels[i])
		most = max(most, (2*ch+3*out)*here)
		if i == n-1 && *c.MidAttention {
			most = max(most, 7*ch*here)
		}
		ch = out
		if i > 0 {
			most = max(most, ch*here+2*ch*4*here)
		}
	}
	if pixels < whole {
		most += 3 * float64(c.OutChannels) * whole // rows of tiles, and the blended image
	}
	return most
}

// Activations is the same estimate as [Config.Activations].
func (c TinyConfig) Activations(h, w, tile int) float64 {
	c = c.WithDefaults()
	k := Tiny{config: c, Tile: tile}
	pixels, whole := tileOf(h, w, k.tile()), float64(h)*float64(w)
	most := 0.0
	for i, width := range c.DecoderWidths {
		down := len(c.DecoderWidths) - 1 - i
		most = max(most, 4*float64(width)*pixels/float64(int(1)<<(2*down)))
	}
	if pixels < whole {
		most += 3 * float64(c.OutChannels) * whole
	}
	return most
}

// tileOf returns the number of pixels that are decoded at once.
func tileOf(h, w, tile int) float64 {
	if tile <= 0 || (h <= tile && w <= tile) {
		return float64(h) * float64(w)
	}
	return float64(min(h, tile)) * float64(min(w, tile))
}
