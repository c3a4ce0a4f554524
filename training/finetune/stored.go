package finetune

import (
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// stored is a network's tensors as a source, to write them.
type stored struct{ *nn.Store }

var _ nn.Source = stored{}

func (s stored) find(name string) *torch.Tensor {
	for n, t := range s.Tensors() {
		if n == name {
			return t
		}
	}
	return nil
}

// Info implements [nn.Source].
func (s stored) Info(name string) ([]int, torch.DType, bool) {
	t := s.find(name)
	if t == nil {
		return nil, 0, false
	}
	return t.Shape(), t.DType(), true
}

// Names implements [nn.Source].
func (s stored) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for n := range s.Tensors() {
			if !yield(n) {
				return
			}
		}
	}
}

// Get implements [nn.Source].
func (s stored) Get(in *torch.Scope, name string) (*torch.Tensor, error) {
	t := s.find(name)
	if t == nil {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	return t.Detach(in).ToDevice(in, torch.CPU), nil
}

// Release implements [nn.Source].
func (stored) Release(string) {}
