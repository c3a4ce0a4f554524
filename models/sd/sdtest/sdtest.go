// Package sdtest fills networks with weights that any language can reproduce: tests compare with other implementations without stored
// weights.
//
// A tensor with a given name is drawn by libtorch's CPU generator with the seed crc32(name): z ~ N(0, 1) in its shape, in float32. A tensor
// of two or more dimensions is z/√(elements/first dimension); of the others, a weight is 1 + z/10 and all else z/10.
// scripts/golden/shared/sdfill.py does the same in PyTorch.
package sdtest

import (
	"fmt"
	"hash/crc32"
	"iter"
	"math"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Filled is a source of tensors with the given names and shapes, whose values depend only on their names.
type Filled []nn.Shape

var _ nn.Source = Filled{}

// Info returns shape and type, which is float32.
func (f Filled) Info(name string) ([]int, torch.DType, bool) {
	for _, t := range f {
		if t.Name == name {
			return t.Dims, torch.Float32, true
		}
	}
	return nil, 0, false
}

// Names yields the names in order.
func (f Filled) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, t := range f {
			if !yield(t.Name) {
				return
			}
		}
	}
}

// Get returns a tensor.
func (f Filled) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	shape, _, ok := f.Info(name)
	if !ok {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	g := torch.NewGeneratorOn(s, torch.CPU, uint64(crc32.ChecksumIEEE([]byte(name))))
	z := torch.Randn(s, g, torch.Float32, shape...)
	switch {
	case len(shape) > 1:
		return z.DivScalar(s, math.Sqrt(float64(z.NumEl()/shape[0]))), nil
	case strings.HasSuffix(name, "weight"):
		return z.MulScalar(s, 0.1).AddScalar(s, 1), nil
	default:
		return z.MulScalar(s, 0.1), nil
	}
}

// Release does nothing.
func (f Filled) Release(string) {}
