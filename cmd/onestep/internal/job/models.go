package job

import (
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/torch"
)

// describes reads the description of a model file, a run directory or the builtin model.
func describes(path string) (checkpoint.Description, error) {
	if path != "builtin" {
		return checkpoint.ReadDescription(path)
	}
	f, err := builtin.File()
	if err != nil {
		return checkpoint.Description{}, err
	}
	return checkpoint.ParseDescription(f.Metadata())
}

// openFile opens a model that describes can read.
func openFile(path string, dev torch.Device) (*checkpoint.File, error) {
	if path != "builtin" {
		return checkpoint.OpenFile(path, dev)
	}
	m, err := builtin.Open(dev)
	if err != nil {
		return nil, err
	}
	return m.File, nil
}
