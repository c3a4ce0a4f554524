package efficientnet

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/datadir"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/internal/foldednorm"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// DefaultPath is $XDG_DATA_HOME/onestep/efficientnet_lite0.safetensors, where XDG_DATA_HOME is by default ~/.local/share. "": there is no home
// directory.
func DefaultPath() string { return datadir.File("efficientnet_lite0.safetensors") }

// Holds reports whether a file has the weights of an EfficientNet, by the names of its tensors.
func Holds(src nn.Source) bool {
	_, _, first := src.Info("_conv_stem.weight")
	_, _, last := src.Info("_conv_head.weight")
	return first && last
}

// Open reads the weights from a safetensors file, or from a file of torch.save, in which nothing is run, onto dev. Missing weights, shape
// mismatches, NaN and infinite values are errors.
func Open(path string, dev torch.Device) (*Net, error) {
	w, err := weights.OpenTensors(path)
	if err != nil {
		return nil, fmt.Errorf("efficientnet: weights: %w", err)
	}
	defer w.Close() // folded weights are copies
	n := &Net{}
	if n.store, err = foldednorm.Build(w, dev, normEps, convOf, n.build); err != nil {
		return nil, fmt.Errorf("efficientnet: weights %s: %w", quote.Path(path), err)
	}
	return n, nil
}

// normAfter are the names of the batch norms after convolutions.
var normAfter = map[string]string{
	"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2",
}

// convOf implements foldednorm.Of: a convolution and the norm after it are in the same block.
func convOf(conv string) (layer, norm string, ok bool) {
	at, name := foldednorm.Split(conv)
	norm, ok = normAfter[name]
	if at != "" {
		norm = at + "." + norm
	}
	return conv, norm, ok
}
