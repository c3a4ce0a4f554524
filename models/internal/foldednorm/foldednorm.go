// Package foldednorm makes convolutional networks of files in which a batch norm follows each convolution. It is folded into the convolution
// before it, with
//
//	w' = w·γ/√(var + ε)        b' = β - mean·γ/√(var + ε)
//
// so that the network has a weight and a bias for each layer. See [Build].
package foldednorm

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Of returns the network's layer that a file's convolution and the batch norm after it become, and the norm's path in the file; false for
// other layers of the file, which the network has as they are.
type Of func(conv string) (layer, norm string, ok bool)

// Build makes a frozen network in float32 on dev, with copies of the weights in src. eps is ε of all norms. Missing weights, shape
// mismatches, NaN and infinite values are errors.
func Build(src nn.Source, dev torch.Device, eps float64, of Of, build func(p nn.Path)) (*nn.Store, error) {
	f := folded{Source: src, eps: eps, of: of, layers: map[string]pair{}, norms: map[string]bool{}}
	for name := range src.Names() {
		conv, kind := Split(name)
		if layer, norm, ok := of(conv); ok && kind == "weight" {
			f.layers[layer], f.norms[norm] = pair{conv, norm}, true
		}
	}
	st, err := nn.BuildFrom(f, dev, torch.Float32, build)
	if err != nil {
		return nil, err
	}
	bad, err := st.NonFinite()
	if bad > 0 {
		err = fmt.Errorf("%d weights are NaN or infinite: the file is damaged", bad)
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

// Split returns a path without its last part, and that part.
func Split(path string) (at, last string) {
	i := strings.LastIndex(path, ".")
	return path[:max(i, 0)], path[i+1:]
}

// pair is a convolution and the norm after it, by their paths in the file.
type pair struct{ conv, norm string }

// folded are a file's weights by the network's names.
type folded struct {
	nn.Source
	eps    float64
	of     Of
	layers map[string]pair // by the network's paths
	norms  map[string]bool // by the file's
}

// parameters are those of a norm.
var parameters = []string{"weight", "bias", "running_mean", "running_var"}

// Info implements nn.Source.
func (f folded) Info(name string) (shape []int, d torch.DType, ok bool) {
	layer, kind := Split(name)
	switch p, ok := f.layers[layer]; {
	case ok && kind == "bias":
		return f.Source.Info(p.norm + ".bias")
	case ok:
		return f.Source.Info(p.conv + "." + kind)
	}
	return f.Source.Info(name)
}

// Names implements nn.Source: the parameters of norms are not among them, but the convolutions' biases.
func (f folded) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range f.Source.Names() {
			path, kind := Split(name)
			layer, _, folds := f.of(path)
			switch {
			case folds && kind == "weight":
				if !yield(layer+".weight") || !yield(layer+".bias") {
					return
				}
			case f.norms[path] && (slices.Contains(parameters, kind) || kind == "num_batches_tracked"):
			case !yield(name):
				return
			}
		}
	}
}

// Release does nothing: the file is read once.
func (f folded) Release(string) {}

// Get implements nn.Source.
func (f folded) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	layer, kind := Split(name)
	p, ok := f.layers[layer]
	if !ok {
		t, err := f.Source.Get(s, name)
		if err != nil {
			return nil, err
		}
		return t.Clone(s), nil // no view, so that the file can be closed
	}
	shape, _, _ := f.Source.Info(p.conv + ".weight")
	var all []*torch.Tensor
	for _, part := range parameters {
		part = p.norm + "." + part
		if got, _, ok := f.Source.Info(part); !ok || len(shape) == 0 || !slices.Equal(got, shape[:1]) {
			return nil, fmt.Errorf("%s: want shape %v, got %v", quote.Text(part), shape[:min(len(shape), 1)], got)
		}
		t, err := f.Source.Get(s, part)
		if err != nil {
			return nil, err
		}
		all = append(all, t.To(s, torch.Float64))
	}
	factor := all[0].Div(s, all[3].AddScalar(s, f.eps).Sqrt(s))
	if kind == "bias" {
		return all[1].Sub(s, all[2].Mul(s, factor)).To(s, torch.Float32), nil
	}
	w, err := f.Source.Get(s, p.conv+".weight")
	if err != nil {
		return nil, err
	}
	return w.To(s, torch.Float64).Mul(s, factor.Reshape(s, -1, 1, 1, 1)).To(s, torch.Float32), nil
}
