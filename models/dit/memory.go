package dit

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with gradients
// of a training step, which keeps the input of every layer.
func (c Config) Activations(gradients bool) float64 {
	c = c.WithDefaults()
	tokens := float64(c.tokens()) * float64(c.Width)
	if gradients {
		return tokens * (24*float64(c.Depth) + 12)
	}
	return 12 * tokens
}

// Checkpointed estimates the same of a training step with gradient checkpointing, which keeps the inputs of blocks and the intermediate
// results of one.
func (c Config) Checkpointed() float64 {
	c = c.WithDefaults()
	return float64(c.tokens()) * float64(c.Width) * (float64(c.Depth) + 24 + 12)
}
