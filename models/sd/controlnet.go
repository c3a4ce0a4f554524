package sd

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// ControlNet is a ControlNet and the files of its weights.
type ControlNet struct {
	*unet.ControlNet
	files *weights.Component
}

// OpenControlNet loads a ControlNet from a diffusers directory or a single file. Pass the options that the model was opened with.
func OpenControlNet(path string, o Options) (*ControlNet, error) {
	files, err := weights.OpenComponent(path, weights.Options{Variant: o.Variant, Mixed: o.Mixed})
	if err != nil {
		return nil, err
	}
	c, err := ControlNetFrom(files, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return c, nil
}

// ControlNetFrom makes a ControlNet from open files. It owns them and closes them on error.
func ControlNetFrom(files *weights.Component, o Options) (_ *ControlNet, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, files.Close())
		}
	}()
	c, err := unet.ParseControlNetConfig(files.Config)
	if err != nil {
		return nil, err
	}
	net, err := unet.ControlNetFrom(c, files, o.Device, o.DType)
	if err != nil {
		return nil, err
	}
	return &ControlNet{net, files}, nil
}

// Close frees the weights and closes the files.
func (c *ControlNet) Close() error {
	c.ControlNet.Close()
	return c.files.Close()
}
