package unet

// Activations estimates the peak number of elements of the activations in a forward pass without gradients, for one sample of latents of
// height h and width w. Attention is counted as linear in the number of pixels, as with memory-efficient kernels.
func (c Config) Activations(h, w int) float64 {
	c = c.WithDefaults()
	n := c.levels()
	at := func(i int) float64 { // pixels of a level; halves are rounded up
		p := 1 << i
		return float64((h+p-1)/p) * float64((w+p-1)/p)
	}
	channels := func(i int) float64 { return float64(c.BlockOutChannels[i]) }
	skips := []float64{channels(0) * at(0)}
	kept, most := skips[0], 0.0
	block := func(in, out, pixels float64, attends bool) {
		working := (2*in + 3*out) * pixels // input, its norm, both convolutions' results, the shortcut
		if attends {
			working = max(working, 16*out*pixels) // 12 of them for the feed-forward layer
		}
		most = max(most, kept+working)
	}
	ch := channels(0)
	for i := range n {
		for range c.LayersPerBlock.at(i) {
			block(ch, channels(i), at(i), c.DownBlockTypes[i] == crossDownBlock)
			ch = channels(i)
			skips = append(skips, ch*at(i))
			kept += ch * at(i)
		}
		if i < n-1 {
			skips = append(skips, ch*at(i+1))
			kept += ch * at(i+1)
		}
	}
	block(ch, ch, at(n-1), c.MidBlockType == MidCrossAttention)
	for i := n - 1; i >= 0; i-- {
		for range c.LayersPerBlock.at(i) + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			block(ch+skip/at(i), channels(i), at(i), c.UpBlockTypes[n-1-i] == crossUpBlock)
			kept -= skip
			ch = channels(i)
		}
		if i > 0 {
			most = max(most, kept+2*ch*at(i-1)+ch*at(i))
		}
	}
	return most
}

// Activations estimates the number of elements that a ControlNet adds to the activations, for one sample of latents of height h and width
// w: its residuals, which live while the U-Net runs, and the control image at full size, 8 times that of the latents.
func (c ControlNetConfig) Activations(h, w int) float64 {
	c = c.WithDefaults()
	kept := 0.0
	for i := range c.levels() {
		p := 1 << i
		kept += float64(c.LayersPerBlock.at(i)+1) * float64(c.BlockOutChannels[i]) * float64((h+p-1)/p) * float64((w+p-1)/p)
	}
	return kept + 3*float64(c.EmbeddingChannels[0])*64*float64(h)*float64(w)
}
