package efficientnet

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/datadir"
	"github.com/onestep-go/onestep/internal/quote"
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
	if n.store, err = nn.BuildFrom(folded{w}, dev, torch.Float32, n.build); err != nil {
		return nil, fmt.Errorf("efficientnet: weights %s: %w", quote.Path(path), err)
	}
	if err := n.check(); err != nil {
		n.Close()
		return nil, fmt.Errorf("efficientnet: weights %s: %w", quote.Path(path), err)
	}
	return n, nil
}

func (n *Net) check() error {
	return torch.Run(n.store.Device(), func(s *torch.Scope) error {
		var all []*torch.Tensor
		for _, t := range n.store.Tensors() {
			all = append(all, t)
		}
		if bad := torch.CountNonFinite(s, all); bad > 0 {
			return fmt.Errorf("%d weights are NaN or infinite: the file is damaged", bad)
		}
		return nil
	})
}

// folded is a file's weights with each batch norm folded into the convolution before it:
//
//	w' = w·γ/√(var + ε)        b' = β - mean·γ/√(var + ε)
type folded struct{ nn.Source }

// norm returns the path of the batch norm after a convolution.
func norm(conv string) string {
	at, name := "", conv
	if i := strings.LastIndex(conv, "."); i >= 0 {
		at, name = conv[:i+1], conv[i+1:]
	}
	return at + map[string]string{
		"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2",
	}[name]
}

// split returns the layer and the last part of a tensor's name.
func split(name string) (layer, kind string) {
	i := strings.LastIndex(name, ".")
	return name[:max(i, 0)], name[i+1:]
}

// Info describes a folded tensor.
func (f folded) Info(name string) (shape []int, d torch.DType, ok bool) {
	layer, kind := split(name)
	if kind == "bias" && layer != "_fc" {
		return f.Source.Info(norm(layer) + ".bias")
	}
	return f.Source.Info(name)
}

// Names yields the tensors of the network: the parameters of batch norms are not among them, but the convolutions' biases.
func (f folded) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range f.Source.Names() {
			layer, kind := split(name)
			switch {
			case strings.HasPrefix(layer[strings.LastIndex(layer, ".")+1:], "_bn"):
				continue
			case !yield(name):
				return
			case kind == "weight" && layer != "_fc" && !yield(layer+".bias"):
				return
			}
		}
	}
}

// Release does nothing: the file is read once.
func (f folded) Release(string) {}

// Get returns a folded tensor.
func (f folded) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	layer, kind := split(name)
	if layer == "_fc" {
		t, err := f.Source.Get(s, name)
		if err != nil {
			return nil, err
		}
		return t.Clone(s), nil // no view, so that the file can be closed
	}
	shape, _, _ := f.Source.Info(layer + ".weight")
	var all []*torch.Tensor
	for _, part := range []string{"weight", "bias", "running_mean", "running_var"} {
		part = norm(layer) + "." + part
		t, err := f.Source.Get(s, part)
		switch {
		case err != nil:
			return nil, err
		case !slices.Equal(t.Shape(), shape[:1]):
			return nil, fmt.Errorf("%s: want shape %v, got %v", quote.Text(part), shape[:1], t.Shape())
		}
		all = append(all, t.To(s, torch.Float64))
	}
	factor := all[0].Div(s, all[3].AddScalar(s, normEps).Sqrt(s))
	if kind == "bias" {
		return all[1].Sub(s, all[2].Mul(s, factor)).To(s, torch.Float32), nil
	}
	w, err := f.Source.Get(s, name)
	if err != nil {
		return nil, err
	}
	return w.To(s, torch.Float64).Mul(s, factor.Reshape(s, -1, 1, 1, 1)).To(s, torch.Float32), nil
}
