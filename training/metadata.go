package training

import (
	"errors"

	"github.com/onestep-go/onestep/models/checkpoint"
)

// metadata describes a model that a method has trained, as a snapshot's metadata; nothing for a network of the user's own.
func metadata(f any, method string, sigmaMax float64, step int, images int64) (map[string]string, error) {
	d, err := checkpoint.Describe(f)
	if errors.Is(err, checkpoint.ErrNetwork) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d.Method, d.SigmaMax, d.Step, d.Images = method, sigmaMax, step, images
	return d.Metadata()
}
