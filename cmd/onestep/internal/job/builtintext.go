package job

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/models/builtintext"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// stored returns the path of a Stable Diffusion model: the built-in one is unpacked first.
func stored(model string) (string, error) {
	if model != builtintext.Name {
		return model, nil
	}
	dir, err := builtintext.Dir("")
	if err != nil {
		return "", fmt.Errorf("--model %s: %w", model, err)
	}
	return dir, nil
}

// builtinHash returns the hash in the name of the directory of [stored]; "" for other models.
func builtinHash(model string) (string, error) {
	if model != builtintext.Name {
		return "", nil
	}
	dir, err := stored(model)
	return strings.TrimPrefix(filepath.Base(dir), builtintext.Name+"-"), err
}

// openModel opens a Stable Diffusion model by its path or name.
func openModel(model string, o weights.Options) (*weights.Model, error) {
	path, err := stored(model)
	if err != nil {
		return nil, err
	}
	return weights.Open(path, o)
}

// builtinModel is the model of generate if there is no other.
func (o *Generate) builtinModel() {
	if o.Model == "" && o.origin.image == "" {
		o.Model = builtintext.Name
		o.remarks = append(o.remarks, "without --model: "+builtintext.Name+", which comes with onestep and generates emoji")
	}
}
