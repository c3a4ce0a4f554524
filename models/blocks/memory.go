package blocks

// Memory estimates the memory of a U-Net's intermediate results in tensor elements, for one sample. The network's blocks are added in the
// order of a forward pass.
type Memory struct {
	Most    float64 // peak of a forward pass without gradients
	Saved   float64 // inputs of all layers
	Inputs  float64 // inputs of all blocks, which the caller counts
	Largest float64 // most that a block takes to be computed again, with its gradients
}

// Unit adds a residual block from in to out channels at that many pixels, and the attention after it, while kept elements are kept for skip
// connections.
func (m *Memory) Unit(in, out, pixels, kept float64, attends bool) {
	working := (2*in + 3*out) * pixels
	each := 2.5 * (in + out) * pixels // inputs of norms and convolutions, and of activations where norm and activation are two operators
	if attends {
		working = max(working, 7*out*pixels)
		each += 8 * out * pixels
	}
	m.Saved += each
	m.Most = max(m.Most, kept+working)
	m.Largest = max(m.Largest, each+working)
}

// Activations is the peak of a forward pass, or with gradients of a training step, which keeps the input of every layer.
func (m Memory) Activations(gradients bool) float64 {
	if gradients {
		return m.Saved + m.Most
	}
	return m.Most
}

// Checkpointed is the peak of a training step with gradient checkpointing, which keeps the inputs of blocks and the intermediate results of
// one.
func (m Memory) Checkpointed() float64 { return m.Inputs + m.Largest }
