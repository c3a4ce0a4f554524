package unet2d

import "github.com/onestep-go/onestep/models/blocks"

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 { return c.memory().Activations(gradients) }

// Checkpointed estimates the same of a training step with gradient checkpointing, which keeps the inputs of blocks and the intermediate
// results of one.
func (c Config) Checkpointed() float64 { return c.memory().Checkpointed() }

func (c Config) memory() (m blocks.Memory) {
	c = c.WithDefaults()
	p := c.plan()
	pixels := float64(c.Height) * float64(c.Width)
	var kept float64
	run := func(u unit) {
		m.Unit(float64(u.in), float64(u.out), pixels, kept, u.attends)
		m.Inputs += float64(u.in-u.skip) * pixels // skip connections are inputs of other blocks
	}
	kept = float64(c.Channels[0]) * pixels
	for _, st := range p.down {
		for _, u := range st.units {
			run(u)
			kept += float64(u.out) * pixels
		}
		if st.resamples {
			run(unit{in: st.channels, out: st.channels})
			pixels /= 4
			kept += float64(st.channels) * pixels
		}
	}
	for _, u := range p.mid {
		run(u)
	}
	for _, st := range p.up {
		for _, u := range st.units {
			run(u)
			kept -= float64(u.skip) * pixels
		}
		if st.resamples {
			pixels *= 4
			run(unit{in: st.channels, out: st.channels})
		}
	}
	return m
}
