package weights

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/component"
)

// file is a source of weights in one or more open files.
type file = component.File

// openWeights opens a file of weights, or an index and its shards. Weights with quantization scales are dequantized.
func openWeights(path string) (file, error) {
	f, err := component.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := withScales(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", quote.Path(path), err), f.Close())
	}
	return s, nil
}

// pathsOf returns the paths of the open files.
func pathsOf(path string, f file) []string {
	if s, ok := f.(*scales); ok {
		f = s.file
	}
	return component.Paths(path, f)
}
