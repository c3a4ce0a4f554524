package unet2d

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 {
	c = c.WithDefaults()
	p := c.plan()
	pixels := float64(c.Height) * float64(c.Width)
	var kept, saved, most float64
	run := func(u unit) {
		in, out := float64(u.in), float64(u.out)
		working := (2*in + 3*out) * pixels
		each := (3*in + 3*out) * pixels // inputs of norms, activations and convolutions
		if u.attends {
			working = max(working, 7*out*pixels)
			each += 8 * out * pixels
		}
		saved += each
		most = max(most, kept+working)
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
	if gradients {
		return saved + most
	}
	return most
}
