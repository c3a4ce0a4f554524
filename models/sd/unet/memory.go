package unet

import "slices"

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

// Kept estimates the number of elements of the activations that a forward pass keeps for gradients to all weights, for one sample of latents
// of height h and width w and tokens of text, without gradient checkpointing.
func (c Config) Kept(h, w, tokens int) float64 {
	c = c.WithDefaults()
	n := c.levels()
	var kept float64
	residual := func(in, out, pixels float64) {
		kept += 2 * (in + out) * pixels // what both norms, which are one operator with SiLU, and both convolutions take
	}
	attend := func(level, depth int) {
		ch, p := float64(c.BlockOutChannels[level]), 1<<level
		pixels := float64((h+p-1)/p) * float64((w+p-1)/p)
		kept += 3 * ch * pixels
		// What norms take and return; queries, keys, values and results of self- and cross-attention; the feed-forward layer's values, gates,
		// their GELU and the product.
		kept += float64(depth) * (28*ch*pixels + 2*ch*float64(tokens))
	}
	at := func(level int) float64 {
		p := 1 << level
		return float64((h+p-1)/p) * float64((w+p-1)/p)
	}
	ch := float64(c.BlockOutChannels[0])
	skips := []float64{ch}
	for i := range n {
		out := float64(c.BlockOutChannels[i])
		for j := range c.LayersPerBlock.at(i) {
			residual(ch, out, at(i))
			if c.DownBlockTypes[i] == crossDownBlock {
				attend(i, c.TransformerLayers.at(i, j))
			}
			ch = out
			skips = append(skips, ch)
		}
		if i < n-1 {
			kept += ch * at(i)
			skips = append(skips, ch)
		}
	}
	switch c.MidBlockType {
	case MidCrossAttention:
		residual(ch, ch, at(n-1))
		attend(n-1, c.TransformerLayers.at(n-1, 0))
		fallthrough
	case MidResidual:
		residual(ch, ch, at(n-1))
	}
	depths := c.ReverseTransformerLayers
	if len(depths) == 0 {
		depths = slices.Clone(c.TransformerLayers)
		slices.Reverse(depths)
	}
	for i := range n {
		level := n - 1 - i
		out := float64(c.BlockOutChannels[level])
		for j := range c.LayersPerBlock.at(level) + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			residual(ch+skip, out, at(level))
			if c.UpBlockTypes[i] == crossUpBlock {
				attend(level, depths.at(i, j))
			}
			ch = out
		}
		if level > 0 {
			kept += ch * at(level-1)
		}
	}
	return kept + 3*ch*at(0)
}
