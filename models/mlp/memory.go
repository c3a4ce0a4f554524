package mlp

// Activations estimates how many elements the network's tensors have together at most, for one sample: while it predicts, or with
// gradients while these are computed, for which every layer's input is kept.
func (c Config) Activations(gradients bool) float64 {
	c = c.WithDefaults()
	most := float64(6*c.Width + 4*c.inputs())
	if gradients {
		return max(most, float64(2*c.inputs()+4*c.Width*c.Depth))
	}
	return most
}
