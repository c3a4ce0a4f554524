package unet2d

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
	p := c.plan()
	pixels := float64(c.Height) * float64(c.Width)
	var kept float64
	run := func(u unit) {
		in, out := float64(u.in), float64(u.out)
		working := (2*in + 3*out) * pixels
		each := (3*in + 3*out) * pixels // inputs of norms, activations and convolutions
		if u.attends {
			working = max(working, 7*out*pixels)
			each += 8 * out * pixels
		}
		m.saved += each
		m.inputs += (in - float64(u.skip)) * pixels // skip connections are inputs of other blocks
		m.most = max(m.most, kept+working)
		m.largest = max(m.largest, each+working)
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
