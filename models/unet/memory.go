package unet

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 {
	m := c.memory()
	if gradients {
		return m.saved + m.most
	}
	return m.most
}

// Checkpointed estimates the same of a training step with gradient checkpointing, which keeps the inputs of blocks and the intermediate
// results of one.
func (c Config) Checkpointed() float64 {
	m := c.memory()
	return m.inputs + m.largest
}

// memory is in tensor elements for one sample.
type memory struct {
	most    float64 // peak of a forward pass without gradients
	saved   float64 // inputs of all layers
	inputs  float64 // inputs of all blocks
	largest float64 // most that a block takes to be computed again, with its gradients
}

func (c Config) memory() (m memory) {
	c = c.WithDefaults()
	side := c.Resolution
	pixels := func() float64 { return float64(side) * float64(side) }
	var kept float64
	block := func(in, out float64, attends bool) {
		p := pixels()
		working := (2*in + 3*out) * p
		each := 2.5 * (in + out) * p // inputs of norms and convolutions, and of activations where norm and activation are two operators
		if attends {
			working = max(working, 7*out*p)
			each += 8 * out * p
		}
		m.saved += each
		m.most = max(m.most, kept+working)
		m.largest = max(m.largest, each+working)
	}
	ch := float64(c.Channels)
	skips := []float64{ch * pixels()}
	kept, m.inputs = skips[0], skips[0]
	push := func() {
		skips = append(skips, ch*pixels())
		kept += ch * pixels()
		m.inputs += ch * pixels()
	}
	for i, mult := range c.Mult {
		out := float64(c.Channels * mult)
		for range c.Blocks {
			block(ch, out, c.attendsAt(side))
			ch = out
			push()
		}
		if i < len(c.Mult)-1 {
			m.saved += 4 * ch * pixels()
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
			m.inputs += ch * pixels()
		}
		if i < len(c.Mult)-1 {
			side *= 2
			m.most = max(m.most, kept+3*ch*pixels())
			m.saved += 6 * ch * pixels()
			m.inputs += ch * pixels()
		}
	}
	return m
}
