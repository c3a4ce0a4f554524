package network

import (
	"errors"

	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/models/unet2d"
)

// DiffusersClass is the class of diffusers whose configurations [FromDiffusers] reads and [Config.Diffusers] writes.
const DiffusersClass = unet2d.Class

// FromDiffusers returns the network of a UNet2DModel's config.json: one of package unet if that can express it, so that the same network
// in files of other programs is the same here, too; otherwise one of package unet2d.
func FromDiffusers(config []byte) (Config, error) {
	if c, err := unet.FromDiffusers(config); err == nil {
		return Config{c}, nil
	}
	c, err := unet2d.FromDiffusers(config)
	if err != nil {
		return Config{}, err
	}
	return Config{c}, nil
}

// Diffusers returns the config.json with which a UNet2DModel is the same network, or an error that says why there is none.
func (c Config) Diffusers() ([]byte, error) {
	switch net := c.Net.(type) {
	case unet.Config:
		return net.Diffusers()
	case unet2d.Config:
		return net.Diffusers()
	}
	return nil, errors.New("it is not a U-Net") //quote: our own words
}

// Traits are what a U-Net's configuration tells about the function that it was trained for.
type Traits struct {
	Fourier     bool // the noise label is embedded by random frequencies
	Residual    bool // residual blocks resample, as in ADM
	OutChannels int  // of the prediction
}

// Traits returns those of a U-Net; false for other networks.
func (c Config) Traits() (Traits, bool) {
	switch net := c.Net.(type) {
	case unet.Config:
		return Traits{net.Embedding == unet.Fourier, net.Resample == unet.ResampleResidual, net.OutChannels}, true
	case unet2d.Config:
		t := Traits{Fourier: net.Embedding == unet.Fourier, OutChannels: net.OutChannels}
		for _, b := range net.Down {
			t.Residual = t.Residual || b == unet2d.ResnetDownBlock
		}
		return t, true
	}
	return Traits{}, false
}
