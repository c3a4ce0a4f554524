package sd

import (
	"github.com/onestep-go/onestep/models/sd/clip"
)

// TrainingNeed is an estimate of the memory that training a model takes, in bytes.
type TrainingNeed struct {
	Weights     float64 // U-Net and text encoders with gradients, two moments of Adam and EMA weights, all in float32
	Activations float64 // of the U-Net and the text encoders, kept for gradients
}

// Peak returns the sum.
func (n TrainingNeed) Peak() float64 { return n.Weights + n.Activations }

// TrainingNeed estimates the memory that training the U-Net and the text encoders of a new model takes (see [Model.Parameters]), with a
// number of samples that are computed at once and of EMA weights. The latents are of the network's SampleSize, and the captions of one
// chunk. Autoencoder and data are not part of it.
func (m *Model) TrainingNeed(batch, averages int) TrainingNeed {
	var n TrainingNeed
	count := 0
	for _, st := range m.networks() {
		count += st.Count()
	}
	const size = 4
	n.Weights = size * float64(4+averages) * float64(count)
	if m.UNet == nil {
		return n
	}
	c := m.UNet.Config()
	h, w, tokens := 64, 64, 0
	if s := c.SampleSize; len(s) > 0 {
		h, w = s[0], s[len(s)-1]
	}
	for _, t := range m.Texts {
		tokens = t.Tokenizer.Max()
		n.Activations += textKept(t.Config(), tokens)
	}
	n.Activations = size * float64(batch) * (n.Activations + c.Kept(h, w, tokens))
	return n
}

// textKept estimates the elements that a text encoder keeps for gradients, for one chunk.
func textKept(c clip.Config, tokens int) float64 {
	each := 10*float64(c.Width) + 3*float64(c.MLPWidth) + float64(c.Heads*tokens)
	return float64(tokens) * (float64(c.Depth)*each + 2*float64(c.Width))
}
