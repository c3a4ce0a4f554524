package inception

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/onestep-go/onestep/internal/datadir"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/internal/foldednorm"
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
func read(src nn.Source, dev torch.Device) (*Net, error) {
	if err := recognise(src); err != nil {
		return nil, err
	}
	n := &Net{}
	var err error
	if n.store, err = foldednorm.Build(src, dev, normEps, convOf, n.build); err != nil {
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

// convOf implements foldednorm.Of: the file has X.conv.weight and X.bn.*, the network X.weight and X.bias.
func convOf(conv string) (layer, norm string, ok bool) {
	layer, part := foldednorm.Split(conv)
	return layer, layer + ".bn", part == "conv"
}
