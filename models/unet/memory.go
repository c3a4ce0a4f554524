package unet

import "github.com/onestep-go/onestep/models/blocks"

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 { return c.memory().Activations(gradients) }

// Checkpointed estimates the same of a training step with gradient checkpointing, which keeps the inputs of blocks and the intermediate
// results of one.
func (c Config) Checkpointed() float64 { return c.memory().Checkpointed() }

func (c Config) memory() (m blocks.Memory) {
	c = c.WithDefaults()
	side := c.Resolution
	pixels := func() float64 { return float64(side) * float64(side) }
	var kept float64
	block := func(in, out float64, attends bool) { m.Unit(in, out, pixels(), kept, attends) }
	ch := float64(c.Channels)
	skips := []float64{ch * pixels()}
	kept, m.Inputs = skips[0], skips[0]
	push := func() {
		skips = append(skips, ch*pixels())
		kept += ch * pixels()
		m.Inputs += ch * pixels()
	}
	for i, mult := range c.Mult {
		out := float64(c.Channels * mult)
		for range c.Blocks {
			block(ch, out, c.attendsAt(side))
			ch = out
			push()
		}
		if i < len(c.Mult)-1 {
			m.Saved += 4 * ch * pixels()
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
			m.Inputs += ch * pixels()
		}
		if i < len(c.Mult)-1 {
			side *= 2
			m.Most = max(m.Most, kept+3*ch*pixels())
			m.Saved += 6 * ch * pixels()
			m.Inputs += ch * pixels()
		}
	}
	return m
}
