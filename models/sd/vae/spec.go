package vae

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Spec is the configuration of an autoencoder of either class, as a model's directory has it in vae/config.json.
type Spec struct {
	KL   *Config     // of an AutoencoderKL, or nil
	Tiny *TinyConfig // of an AutoencoderTiny, or nil
}

// ParseSpec reads the config.json of diffusers' AutoencoderKL or AutoencoderTiny, by its _class_name; without one it is the former's.
func ParseSpec(config []byte) (Spec, error) {
	if IsTiny(config) {
		c, err := ParseTinyConfig(config)
		return Spec{Tiny: &c}, err
	}
	c, err := ParseConfig(config)
	return Spec{KL: &c}, err
}

// ClassOf returns the class that a config.json names; "": none.
func ClassOf(config []byte) string {
	var c struct {
		Class string `json:"_class_name"`
	}
	if configjson.Unmarshal(config, &c) != nil {
		return ""
	}
	return c.Class
}

// IsTiny reports whether a config.json is that of a tiny autoencoder: [TinyClass] or [PoolClass].
func IsTiny(config []byte) bool {
	class := ClassOf(config)
	return class == TinyClass || class == PoolClass
}

// MarshalJSON writes the config.json.
func (c Spec) MarshalJSON() ([]byte, error) {
	if c.Tiny != nil {
		return json.Marshal(c.Tiny)
	}
	return json.Marshal(c.KL)
}

// Shapes returns the names and shapes of the tensors that From takes from src: a tiny autoencoder may have only its decoder.
func (c Spec) Shapes(src nn.Source) []nn.Shape {
	if c.Tiny != nil {
		return nn.Shapes((&Tiny{config: c.Tiny.WithDefaults(), lone: !encodes(src)}).build)
	}
	return Shapes(*c.KL)
}

// encodes reports whether there are tensors of an encoder.
func encodes(src nn.Source) bool {
	for name := range src.Names() {
		if strings.HasPrefix(name, "encoder.") {
			return true
		}
	}
	return false
}

// From makes an autoencoder from the weights in src, frozen; see [nn.BuildFrom]. Where a KL autoencoder overflows in float16, it is in
// float32. tile is the field Tile.
func (c Spec) From(src nn.Source, dev torch.Device, dtype torch.DType, tile int) (Autoencoder, error) {
	dtype = c.DType(dtype)
	if c.Tiny != nil {
		t, err := newTiny(*c.Tiny, !encodes(src), func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
		if err != nil {
			return nil, err
		}
		t.Tile = tile
		return t, nil
	}
	k, err := From(*c.KL, src, dev, dtype)
	if err != nil {
		return nil, err
	}
	k.Tile = tile
	return k, nil
}

// DType returns the data type that the autoencoder has in a model of type d.
func (c Spec) DType(d torch.DType) torch.DType {
	if d == torch.Float16 && c.KL != nil && *c.KL.ForceUpcast {
		return torch.Float32
	}
	return d
}

// Factor is the number of image pixels per latent pixel.
func (c Spec) Factor() int {
	if c.Tiny != nil {
		return 1 << (len(c.Tiny.EncoderWidths) - 1)
	}
	return 1 << (len(c.KL.Channels) - 1)
}

// Channels is the number of latent channels.
func (c Spec) Channels() int {
	if c.Tiny != nil {
		return c.Tiny.LatentChannels
	}
	return c.KL.LatentChannels
}

// Activations estimates the peak number of elements of the decoder's activations, as the method of both configurations does.
func (c Spec) Activations(height, width, tile int) float64 {
	if c.Tiny != nil {
		return c.Tiny.Activations(height, width, tile)
	}
	return c.KL.Activations(height, width, tile)
}

// Rescale sets the scaling factor of an autoencoder, by which latents are multiplied. Call it before use.
func Rescale(a Autoencoder, factor float64) error {
	if err := scale(factor); err != nil {
		return fmt.Errorf("vae: %w", err)
	}
	switch a := a.(type) {
	case *KL:
		a.config.ScalingFactor = factor
	case *Tiny:
		a.config.ScalingFactor = factor
	default:
		return fmt.Errorf("an autoencoder of type %s has no scaling factor", quote.Text(fmt.Sprintf("%T", a)))
	}
	return nil
}

// MeasureScaling returns the scaling factor with which the latents of these images [n, 3, H, W] have a standard deviation of 1, for [Rescale].
func MeasureScaling(s *torch.Scope, a Autoencoder, images *torch.Tensor) (float64, error) {
	c, _, err := SpecOf(a)
	if err != nil {
		return 0, err
	}
	now := 1.0
	if c.Tiny != nil {
		now = c.Tiny.ScalingFactor
	} else {
		now = c.KL.ScalingFactor
	}
	var factor float64
	err = s.NoGrad(func(s *torch.Scope) error {
		z := a.Encode(s, images, nil)
		factor = now / z.To(s, torch.Float64).Std(s, 0).Item()
		return nil
	})
	if err == nil {
		err = scale(factor)
	}
	return factor, err
}

// SpecOf returns the configuration and the weights of an autoencoder, for writing it.
func SpecOf(a Autoencoder) (Spec, *nn.Store, error) {
	switch a := a.(type) {
	case *KL:
		return Spec{KL: &a.config}, a.store, nil
	case *Tiny:
		return Spec{Tiny: &a.config}, a.store, nil
	}
	return Spec{}, nil, fmt.Errorf("an autoencoder of type %s has no configuration", quote.Text(fmt.Sprintf("%T", a)))
}
