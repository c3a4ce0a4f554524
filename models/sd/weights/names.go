package weights

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/torch/nn"
)

const (
	textModel     = "text_model."
	textTokens    = "embeddings.token_embedding.weight"
	textProjected = "text_projection.weight"
)

// today renames the tensors of a component, written by any version of diffusers or transformers, to current names, with the prefix
// text_model, which transformers 5 drops. The attention of old autoencoders has query, key, value and proj_attn, possibly as 1×1
// convolutions. Known constants are hidden, and in text encoders also the image encoder and an unused projection.
func today(src nn.Source, projected bool) nn.Source {
	m := newMapping(src)
	text := false
	for name := range src.Names() {
		text = text || strings.TrimPrefix(name, textModel) == textTokens
	}
	for name := range src.Names() {
		switch {
		case constant(name):
		case !text:
			m.autoencoder(name, name)
		case name == textProjected && projected:
			m.add(name, part{name: name})
		default:
			m.text(name, name)
		}
	}
	return m
}

// text adds a tensor of a text encoder, named theirs in the source, unless it is hidden.
func (m *mapping) text(name, theirs string) {
	for _, hidden := range []string{"vision_model.", "visual_projection.", textProjected} {
		if strings.HasPrefix(name, hidden) {
			return
		}
	}
	m.add(textModel+strings.TrimPrefix(name, textModel), part{name: theirs})
}

// autoencoder adds a tensor of an autoencoder, or of another network, named theirs in the source.
func (m *mapping) autoencoder(name, theirs string) {
	p, ours := part{name: theirs}, name
	if head, tail, ok := oldAttention(name); ok {
		ours = head + tail
	}
	if shape, _, _ := m.src.Info(theirs); linear(ours) && len(shape) == 4 && shape[2] == 1 && shape[3] == 1 {
		p.shape = shape[:2]
	}
	m.add(ours, p)
}

// oldNames are the old and current names of the layers in an autoencoder's attention.
var oldNames = [][2]string{{"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}}

// oldAttention splits an old name in an autoencoder's attention into its prefix and the current suffix.
func oldAttention(name string) (head, tail string, ok bool) {
	if !strings.Contains(name, ".mid_block.attentions.") {
		return "", "", false
	}
	for _, old := range oldNames {
		for _, end := range []string{".weight", ".bias"} {
			if head, ok := strings.CutSuffix(name, "."+old[0]+end); ok {
				return head, "." + old[1] + end, true
			}
		}
	}
	return "", "", false
}

// linear reports whether a current name is the weight of a linear layer in an autoencoder's attention.
func linear(name string) bool {
	return strings.Contains(name, ".mid_block.attentions.") && slices.ContainsFunc(oldNames, func(n [2]string) bool {
		return strings.HasSuffix(name, "."+n[1]+".weight")
	})
}

// projects reports whether a text encoder has a projection by its config.json.
func projects(config []byte) bool {
	var c struct {
		Architectures []string `json:"architectures"`
	}
	return json.Unmarshal(config, &c) == nil &&
		(slices.Contains(c.Architectures, projectedClass) || slices.Contains(c.Architectures, wholeClass))
}
