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

// Checkpointed estimates the same of a training step with gradient checkpointing, which keeps the inputs of hidden layers.
func (c Config) Checkpointed() float64 {
	c = c.WithDefaults()
	return max(float64(6*c.Width+4*c.inputs()), float64(2*c.inputs()+c.Width*(c.Depth+4)))
}
