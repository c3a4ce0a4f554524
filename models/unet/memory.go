package unet

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 {
	c = c.WithDefaults()
	side := c.Resolution
	pixels := func() float64 { return float64(side) * float64(side) }
	var kept, saved, most float64
	block := func(in, out float64, attends bool) {
		p := pixels()
		working := (2*in + 3*out) * p
		each := (3*in + 3*out) * p // inputs of norms, activations and convolutions
		if attends {
			working = max(working, 7*out*p)
			each += 8 * out * p
		}
		saved += each
		most = max(most, kept+working)
	}
	ch := float64(c.Channels)
	skips := []float64{ch * pixels()}
	kept = skips[0]
	push := func() {
		skips = append(skips, ch*pixels())
		kept += ch * pixels()
	}
	for i, m := range c.Mult {
		out := float64(c.Channels * m)
		for range c.Blocks {
			block(ch, out, c.attendsAt(side))
			ch = out
			push()
		}
		if i < len(c.Mult)-1 {
			saved += 4 * ch * pixels()
			side /= 2
			push()
		}
	}
	block(ch, ch, !c.NoMidAttention)
	block(ch, ch, false)
	for i := range c.Mult {
		out := float64(c.Channels * c.Mult[len(c.Mult)-1-i])
		for range c.Blocks + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			block(ch+skip/pixels(), out, c.attendsAt(side))
			kept -= skip
			ch = out
		}
		if i < len(c.Mult)-1 {
			side *= 2
			most = max(most, kept+3*ch*pixels())
			saved += 6 * ch * pixels()
		}
	}
	if gradients {
		return saved + most
	}
	return most
}
