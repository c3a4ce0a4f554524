package sd

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch/nn"
)

// Check tells whether a model's weights are those that its configurations ask for. All that is missing, unexpected or of another shape,
// in any part, is reported together. No weights are read.
func Check(m *weights.Model) error {
	var all error
	for _, p := range []struct {
		name   string
		part   *weights.Component
		shapes func(config []byte) ([]nn.Shape, error)
	}{
		{"text_encoder", m.Text, textShapes(false)}, {"text_encoder_2", m.Text2, textShapes(true)},
		{"unet", m.UNet, shapes(unet.ParseConfig, unet.Shapes)}, {"vae", m.VAE, shapes(vae.ParseConfig, vae.Shapes)},
		{"controlnet", m.ControlNet, shapes(unet.ParseControlNetConfig, unet.ControlNetShapes)},
	} {
		if p.part == nil {
			continue
		}
		plan, err := p.shapes(p.part.Config)
		if err == nil {
			err = nn.Fits(p.part, plan)
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return all
}

// shapes returns what finds the shapes of a part by its config.json.
func shapes[C any](parse func([]byte) (C, error), plan func(C) []nn.Shape) func([]byte) ([]nn.Shape, error) {
	return func(config []byte) ([]nn.Shape, error) {
		c, err := parse(config)
		if err != nil {
			return nil, err
		}
		return plan(c), nil
	}
}

func textShapes(second bool) func([]byte) ([]nn.Shape, error) {
	return shapes(func(config []byte) (clip.Config, error) { return parseText(config, second) }, clip.Shapes)
}

// parseText reads the config.json of a text encoder.
func parseText(config []byte, second bool) (clip.Config, error) {
	c, err := clip.ParseConfig(config)
	if second {
		c.Projection = true // the class that model_index.json names; its config.json may not
	}
	return c, err
}
