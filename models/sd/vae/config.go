package vae

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a KL autoencoder. Its zero value is that of Stable Diffusion 1: see WithDefaults. As JSON it is the config.json of
// diffusers' AutoencoderKL.
type Config struct {
	InChannels     int   `json:"in_channels"`        // of pictures; 0: 3
	OutChannels    int   `json:"out_channels"`       // 0: 3
	LatentChannels int   `json:"latent_channels"`    // 0: 4
	Channels       []int `json:"block_out_channels"` // of each level, from the largest image; nil: 128, 256, 512, 512
	Layers         int   `json:"layers_per_block"`   // residual blocks of a level, one less than on the way back; 0: 2
	Groups         int   `json:"norm_num_groups"`    // 0: 32

	ScalingFactor float64  `json:"scaling_factor"`         // latents are multiplied by it; 0: 0.18215
	ShiftFactor   *float64 `json:"shift_factor,omitempty"` // and this taken from them before; nil: none
	SampleSize    Size     `json:"sample_size,omitempty"`  // pixels of the pictures it was trained with; 0: 512
	ForceUpcast   *bool    `json:"force_upcast,omitempty"` // in half precision it overflows; nil: true, as in diffusers

	QuantConv     *bool `json:"use_quant_conv,omitempty"`          // a 1×1 convolution after the encoder; nil: true
	PostQuantConv *bool `json:"use_post_quant_conv,omitempty"`     // and one before the decoder; nil: true
	MidAttention  *bool `json:"mid_block_add_attention,omitempty"` // nil: true
}

// Size is a number of pixels; JSON may have it as height and width, of which this is the height.
type Size int

// UnmarshalJSON reads a number or a list of two.
func (v *Size) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var list []int
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("the list is empty")
		}
		*v = Size(list[0])
		return nil
	}
	return json.Unmarshal(b, (*int)(v))
}

// SD15 is the autoencoder of Stable Diffusion 1 and 2.
func SD15() Config { return Config{}.WithDefaults() }

// SDXL is the autoencoder of SDXL.
func SDXL() Config { return Config{ScalingFactor: 0.13025, SampleSize: 1024}.WithDefaults() }

// WithDefaults fills in every field that was left at zero.
func (c Config) WithDefaults() Config {
	c.InChannels, c.OutChannels, c.LatentChannels = or(c.InChannels, 3), or(c.OutChannels, 3), or(c.LatentChannels, 4)
	c.Layers, c.Groups = or(c.Layers, 2), or(c.Groups, 32)
	c.ScalingFactor, c.SampleSize = or(c.ScalingFactor, 0.18215), or(c.SampleSize, 512)
	if c.Channels == nil {
		c.Channels = []int{128, 256, 512, 512}
	}
	for _, flag := range []**bool{&c.ForceUpcast, &c.QuantConv, &c.PostQuantConv, &c.MidAttention} {
		if *flag == nil {
			yes := true
			*flag = &yes
		}
	}
	return c
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Limits keep hostile files from asking for memory.
const (
	maxChannels = 8192
	maxLevels   = 8
	maxLayers   = 16
	maxWeights  = 4 << 30
)

// Validate reports what cannot work, of a configuration with its defaults filled in.
func (c Config) Validate() error {
	within := func(key string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("vae config: %s is %d: want %d to %d", key, v, lo, hi)
		}
		return nil
	}
	err := errors.Join(
		within("in_channels", c.InChannels, 1, 64), within("out_channels", c.OutChannels, 1, 64),
		within("latent_channels", c.LatentChannels, 1, 256), within("layers_per_block", c.Layers, 1, maxLayers),
		within("norm_num_groups", c.Groups, 1, maxChannels), within("sample_size", int(c.SampleSize), 8, 1<<16),
		within("the length of block_out_channels", len(c.Channels), 1, maxLevels),
	)
	if !(c.ScalingFactor > 0 && c.ScalingFactor < 1e6) {
		err = errors.Join(err, fmt.Errorf("vae config: scaling_factor is %g: want a number above 0", c.ScalingFactor))
	}
	for _, n := range c.Channels {
		if err2 := within("a number of block_out_channels", n, 1, maxChannels); err2 != nil {
			err = errors.Join(err, err2)
		} else if c.Groups > 0 && n%c.Groups != 0 {
			err = errors.Join(err, fmt.Errorf("vae config: block_out_channels has %d, which norm_num_groups, %d, does not divide", n, c.Groups))
		}
	}
	if err != nil {
		return err
	}
	if n := nn.Count(Shapes(c)); n > maxWeights {
		return fmt.Errorf("vae config: %d weights: want at most %d", n, maxWeights)
	}
	return nil
}

// ParseConfig reads a config.json of AutoencoderKL. Keys that change nothing are ignored; what asks for something that is not built
// is an error.
func ParseConfig(data []byte) (Config, error) {
	var c Config
	var more struct {
		Class string    `json:"_class_name"`
		Down  []string  `json:"down_block_types"`
		Up    []string  `json:"up_block_types"`
		Act   string    `json:"act_fn"`
		Mean  []float64 `json:"latents_mean"`
	}
	if err := errors.Join(json.Unmarshal(data, &c), json.Unmarshal(data, &more)); err != nil {
		return Config{}, fmt.Errorf("vae config: %w", err)
	}
	c = c.WithDefaults()
	unlike := func(list []string, want string) bool {
		return list != nil && (len(list) != len(c.Channels) || slices.ContainsFunc(list, func(v string) bool { return v != want }))
	}
	switch {
	case more.Class != "" && more.Class != "AutoencoderKL":
		return Config{}, fmt.Errorf("vae config: _class_name is %q: want AutoencoderKL", more.Class)
	case unlike(more.Down, "DownEncoderBlock2D"):
		return Config{}, fmt.Errorf("vae config: down_block_types is %q: want DownEncoderBlock2D for each of %d levels", more.Down, len(c.Channels))
	case unlike(more.Up, "UpDecoderBlock2D"):
		return Config{}, fmt.Errorf("vae config: up_block_types is %q: want UpDecoderBlock2D for each of %d levels", more.Up, len(c.Channels))
	case more.Act != "" && more.Act != "silu":
		return Config{}, fmt.Errorf("vae config: act_fn is %q: want silu", more.Act)
	case more.Mean != nil:
		return Config{}, errors.New("vae config: latents_mean is set, which is not built: want null")
	}
	return c, c.Validate()
}

// MarshalJSON writes what diffusers reads.
func (c Config) MarshalJSON() ([]byte, error) {
	c = c.WithDefaults()
	type plain Config
	repeat := func(name string) []string { return slices.Repeat([]string{name}, len(c.Channels)) }
	return json.Marshal(struct {
		Class string `json:"_class_name"`
		plain
		Down []string `json:"down_block_types"`
		Up   []string `json:"up_block_types"`
		Act  string   `json:"act_fn"`
	}{"AutoencoderKL", plain(c), repeat("DownEncoderBlock2D"), repeat("UpDecoderBlock2D"), "silu"})
}
