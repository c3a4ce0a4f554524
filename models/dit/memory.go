package dit

// Activations estimates how many elements the network's tensors have together at most, for one sample: while it predicts, or with
// gradients while these are computed, for which every layer's input is kept.
func (c Config) Activations(gradients bool) float64 {
	c = c.WithDefaults()
	tokens := float64(c.tokens()) * float64(c.Width)
	if gradients {
		return tokens * (24*float64(c.Depth) + 12)
	}
	return 12 * tokens
}
