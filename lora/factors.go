package lora

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// factors is a source of a file's tensors, with the names and shapes of the adapter's layers.
type factors struct {
	f  *File
	by map[string]factor
}

type factor struct {
	name  string
	shape []int
}

var _ nn.Source = factors{}

// add enters a module's tensors.
func (v factors) add(p pair) {
	at := p.spot.name() + "."
	for _, r := range p.order {
		if r == alpha {
			continue
		}
		name, shape := at+string(r), p.shapes[r]
		if p.Kind == LowRank && (r == down || r == up) {
			name = at + factorNames[r]
			shape = []int{p.Rank, p.spot.shape[1]}
			if r == up {
				shape = []int{p.spot.shape[0], p.Rank}
			}
			for _, k := range p.spot.shape[2:] {
				if r == up {
					k = 1
				}
				shape = append(shape, k)
			}
		}
		v.by[name] = factor{p.tensors[r], shape}
	}
}

// Info implements nn.Source.
func (v factors) Info(name string) ([]int, torch.DType, bool) {
	f, ok := v.by[name]
	if !ok {
		return nil, 0, false
	}
	_, d, ok := v.f.src.Info(f.name)
	return f.shape, d, ok
}

// Names implements nn.Source.
func (v factors) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range v.by {
			if !yield(name) {
				return
			}
		}
	}
}

// Get implements nn.Source.
func (v factors) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	f, ok := v.by[name]
	if !ok {
		return nil, fmt.Errorf("the file has no tensor %s", quote.Quoted(name))
	}
	t, err := v.f.src.Get(s, f.name)
	if err != nil || slices.Equal(t.Shape(), f.shape) {
		return t, err
	}
	return t.View(s, f.shape...), nil
}

// Release implements nn.Source.
func (v factors) Release(name string) { v.f.src.Release(v.by[name].name) }
