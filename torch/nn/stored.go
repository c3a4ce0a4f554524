package nn

import (
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Stored is a store as a source: its tensors under their names, for writing a network and for making another of the same weights. Get
// returns copies, so that a network made from it has weights of its own.
type Stored struct{ *Store }

var _ Source = Stored{}

// Info implements Source.
func (s Stored) Info(name string) ([]int, torch.DType, bool) {
	e, ok := s.byKey[name]
	if !ok {
		return nil, 0, false
	}
	return e.t.Shape(), e.t.DType(), true
}

// Names implements Source.
func (s Stored) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range s.Tensors() {
			if !yield(name) {
				return
			}
		}
	}
}

// Get implements Source.
func (s Stored) Get(in *torch.Scope, name string) (*torch.Tensor, error) {
	e, ok := s.byKey[name]
	if !ok {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	return e.t.Detach(in).Clone(in), nil
}

// Release implements Source.
func (s Stored) Release(string) {}
