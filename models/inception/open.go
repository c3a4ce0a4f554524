package inception

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/datadir"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Files are the names of the published weights, of pytorch-fid and torch-fidelity.
var Files = []string{"pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"}

// Source says where the weights are published.
const Source = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"

// Find returns the path of one of Files in the user's data directory, $XDG_DATA_HOME/onestep, where XDG_DATA_HOME is by default
// ~/.local/share. Without one, the error wraps fs.ErrNotExist, and path is where the first would be; "": there is no home directory.
func Find() (path string, err error) {
	for _, name := range Files {
		path := datadir.File(name)
		if path == "" {
			break
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return datadir.File(Files[0]), fmt.Errorf("inception: weights: none of %s is in the data directory: %w", strings.Join(Files, ", "), fs.ErrNotExist)
}

// Holds reports whether a file has the weights of an InceptionV3, by the names of its tensors. It may be another than FID's, which Open
// refuses.
func Holds(src nn.Source) bool {
	_, _, first := src.Info("Conv2d_1a_3x3.conv.weight")
	_, _, last := src.Info("Mixed_7c.branch_pool.conv.weight")
	return first && last
}

// Open reads the weights from a file of pytorch-fid or torch-fidelity, or from a safetensors file with the same tensors, onto dev. Files of
// torch.save are read as data: nothing in them is run. Missing weights, shape mismatches, NaN and infinite values are errors.
func Open(path string, dev torch.Device) (*Net, error) {
	w, err := weights.OpenTensors(path)
	if err != nil {
		return nil, fmt.Errorf("inception: weights: %w", err)
	}
	n, err := read(w, dev)
	if cerr := w.Close(); err == nil { // folded weights are copies
		err = cerr
	}
	if err != nil {
		if n != nil {
			n.Close()
		}
		return nil, fmt.Errorf("inception: weights %s: %w", quote.Path(path), err)
	}
	return n, nil
}

// read makes the network with the weights of a file.
func read(src nn.Source, dev torch.Device) (n *Net, err error) {
	if err := recognise(src); err != nil {
		return nil, err
	}
	n = &Net{}
	if n.store, err = nn.BuildFrom(folded{src}, dev, torch.Float32, n.build); err != nil {
		return nil, err
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		var all []*torch.Tensor
		for _, t := range n.store.Tensors() {
			all = append(all, t)
		}
		if bad := torch.CountNonFinite(s, all); bad > 0 {
			return fmt.Errorf("%d weights are NaN or infinite: the file is damaged", bad)
		}
		return nil
	})
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// recognise returns an error for the weights of other networks.
func recognise(src nn.Source) error {
	want := "want those of FID, " + strings.Join(Files, " or ")
	if !Holds(src) {
		for name := range src.Names() {
			return fmt.Errorf("these are the weights of another network, with tensors such as %s: %s", quote.Text(name), want)
		}
		return fmt.Errorf("the file has no tensors: %s", want)
	}
	if shape, _, ok := src.Info("fc.weight"); ok && len(shape) == 2 && shape[0] != Classes {
		return fmt.Errorf("this is an InceptionV3 of %d classes, such as torchvision's, whose features are not those of FID: %s, which have %d", shape[0], want, Classes)
	}
	return nil
}

// folded are a file's weights with each batch norm folded into the convolution before it:
//
//	w' = w·γ/√(var + ε)        b' = β - mean·γ/√(var + ε)
//
// The file has X.conv.weight and X.bn.*, the network X.weight and X.bias.
type folded struct{ nn.Source }

// split returns the layer and the last part of a name.
func split(name string) (layer, kind string) {
	i := strings.LastIndex(name, ".")
	return name[:max(i, 0)], name[i+1:]
}

// Info describes a folded tensor.
func (f folded) Info(name string) (shape []int, d torch.DType, ok bool) {
	layer, kind := split(name)
	switch {
	case layer == "fc":
		return f.Source.Info(name)
	case kind == "bias":
		return f.Source.Info(layer + ".bn.bias")
	}
	return f.Source.Info(layer + ".conv.weight")
}

// Names yields the tensors of the network, and any others of the file by their own names.
func (f folded) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range f.Source.Names() {
			layer, kind := split(name)
			at, part := split(layer)
			switch {
			case part == "conv" && kind == "weight":
				if !yield(at+".weight") || !yield(at+".bias") {
					return
				}
			case part == "bn" && slices.Contains(norms, kind) || part == "bn" && kind == "num_batches_tracked":
			case !yield(name):
				return
			}
		}
	}
}

// norms are the parameters of a batch norm.
var norms = []string{"weight", "bias", "running_mean", "running_var"}

// Release does nothing: the file is read once.
func (f folded) Release(string) {}

// Get returns a folded tensor.
func (f folded) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	layer, kind := split(name)
	if layer == "fc" {
		t, err := f.Source.Get(s, name)
		if err != nil {
			return nil, err
		}
		return t.Clone(s), nil // no view, so that the file can be closed
	}
	shape, _, _ := f.Source.Info(layer + ".conv.weight")
	var all []*torch.Tensor
	for _, part := range norms {
		part = layer + ".bn." + part
		if got, _, ok := f.Source.Info(part); !ok || len(shape) == 0 || !slices.Equal(got, shape[:1]) {
			return nil, fmt.Errorf("%s: want shape %v, got %v", quote.Text(part), shape[:min(len(shape), 1)], got)
		}
		t, err := f.Source.Get(s, part)
		if err != nil {
			return nil, err
		}
		all = append(all, t.To(s, torch.Float64))
	}
	factor := all[0].Div(s, all[3].AddScalar(s, normEps).Sqrt(s))
	if kind == "bias" {
		return all[1].Sub(s, all[2].Mul(s, factor)).To(s, torch.Float32), nil
	}
	w, err := f.Source.Get(s, layer+".conv.weight")
	if err != nil {
		return nil, err
	}
	return w.To(s, torch.Float64).Mul(s, factor.Reshape(s, -1, 1, 1, 1)).To(s, torch.Float32), nil
}
