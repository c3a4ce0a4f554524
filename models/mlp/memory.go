package mlp

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 {
	c = c.WithDefaults()
	most := float64(6*c.Width + 4*c.inputs())
	if gradients {
		return max(most, float64(2*c.inputs()+4*c.Width*c.Depth))
	}
	return most
}
