package sd

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch/nn"
)

// Check compares the names and shapes of a model's tensors with its configurations. One error reports all missing and unexpected tensors
// and shape mismatches of all components. Text encoders that are incompatible with the U-Net are an error too. No weights are read.
func Check(m *weights.Model) error {
	var all error
	for _, p := range []struct {
		name   string
		part   *weights.Component
		shapes func(config []byte) ([]nn.Shape, error)
	}{
		{"text_encoder", m.Text, textShapes(false)}, {"text_encoder_2", m.Text2, textShapes(true)},
		{"unet", m.UNet, shapes(unet.ParseConfig, unet.Shapes)}, {"vae", m.VAE, vaeShapes(m.VAE)},
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
	if err := together(m); err != nil {
		return err // the rest follows from it
	}
	return all
}

// together reports text encoders that are incompatible with the U-Net, by their configurations.
func together(m *weights.Model) error {
	if m.UNet == nil || m.Text == nil {
		return nil
	}
	c, err := unet.ParseConfig(m.UNet.Config)
	if err != nil {
		return nil //nolint:nilerr // reported with the part
	}
	width, pooled := 0, 0
	for i, part := range []*weights.Component{m.Text, m.Text2} {
		if part == nil {
			continue
		}
		t, err := weights.ParseText(part.Config, i == 1)
		if err != nil {
			return nil //nolint:nilerr // reported with the part
		}
		if width += t.Width; t.Projection {
			pooled = t.ProjectionDim
		}
	}
	if want := c.CrossAttentionDim[0]; width != want {
		return fmt.Errorf("%s takes text features of width %s, but the text encoders output %s: they are incompatible; want components of the same base model",
			named(m.UNet), features(want), features(width))
	}
	const sizes = 6 // the original size, crop offsets and target size
	if got := sizes*c.AdditionTimeEmbedDim + pooled; c.AdditionEmbedType != "" && pooled > 0 && got != c.ProjectionInputDim {
		return fmt.Errorf("%s takes %d features of sizes and pooled text, but with these text encoders there are %d: they are incompatible; want components of the same base model",
			named(m.UNet), c.ProjectionInputDim, got)
	}
	return nil
}

// named names a U-Net by its file.
func named(c *weights.Component) string {
	if len(c.Files) == 0 {
		return "the unet"
	}
	return fmt.Sprintf("the unet of %s", quote.Path(c.Files[0]))
}

// features formats a width of text features with the model family that has it, if known.
func features(width int) string {
	if name := weights.Family(width); name != "" {
		return fmt.Sprintf("%d (%s)", width, name)
	}
	return strconv.Itoa(width)
}

// shapes returns a function from a component's config.json to the shapes of its tensors.
func shapes[C any](parse func([]byte) (C, error), plan func(C) []nn.Shape) func([]byte) ([]nn.Shape, error) {
	return func(config []byte) ([]nn.Shape, error) {
		c, err := parse(config)
		if err != nil {
			return nil, err
		}
		return plan(c), nil
	}
}

// nnFits compares the tensors of an autoencoder with its configuration.
func nnFits(part *weights.Component, c vae.Spec) error { return nn.Fits(part, c.Shapes(part)) }

func vaeShapes(part *weights.Component) func([]byte) ([]nn.Shape, error) {
	return shapes(vae.ParseSpec, func(c vae.Spec) []nn.Shape { return c.Shapes(part) })
}

func textShapes(second bool) func([]byte) ([]nn.Shape, error) {
	return shapes(func(config []byte) (clip.Config, error) { return weights.ParseText(config, second) }, clip.Shapes)
}
