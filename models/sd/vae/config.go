package vae

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a KL autoencoder. Its zero value has the values of Stable Diffusion 1: see WithDefaults. Its JSON is the config.json of
// diffusers' AutoencoderKL.
type Config struct {
	InChannels     int   `json:"in_channels"`        // of images; 0: 3
	OutChannels    int   `json:"out_channels"`       // 0: 3
	LatentChannels int   `json:"latent_channels"`    // 0: 4
	Channels       []int `json:"block_out_channels"` // per level, from the highest resolution; nil: 128, 256, 512, 512
	Layers         int   `json:"layers_per_block"`   // residual blocks per level of the encoder, one more in the decoder; 0: 2
	Groups         int   `json:"norm_num_groups"`    // 0: 32

	ScalingFactor float64  `json:"scaling_factor"`         // latents are multiplied by it; 0: 0.18215
	ShiftFactor   *float64 `json:"shift_factor,omitempty"` // subtracted from latents before scaling; nil: none
	SampleSize    Size     `json:"sample_size,omitempty"`  // pixels of the training images; 0: 512
	ForceUpcast   *bool    `json:"force_upcast,omitempty"` // it overflows in float16; nil: true, as in diffusers

	QuantConv     *bool `json:"use_quant_conv,omitempty"`          // a 1×1 convolution after the encoder; nil: true
	PostQuantConv *bool `json:"use_post_quant_conv,omitempty"`     // and one before the decoder; nil: true
	MidAttention  *bool `json:"mid_block_add_attention,omitempty"` // nil: true
}

// Size is a number of pixels. JSON may have a list of height and width, of which it is the height.
type Size int

// UnmarshalJSON reads a number or a list of numbers.
func (v *Size) UnmarshalJSON(b []byte) error {
	list := make([]int, 1)
	to := any(&list[0])
	if len(b) > 0 && b[0] == '[' {
		to = &list
	}
	if err := json.Unmarshal(b, to); err != nil {
		return err
	}
	if len(list) == 0 {
		return errors.New("the list is empty")
	}
	*v = Size(list[0])
	return nil
}

// SD15 is the autoencoder of Stable Diffusion 1 and 2.
func SD15() Config { return Config{}.WithDefaults() }

// SDXL is the autoencoder of SDXL.
func SDXL() Config { return Config{ScalingFactor: 0.13025, SampleSize: 1024}.WithDefaults() }

// WithDefaults returns the configuration with every zero field filled in.
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

// Limits keep hostile files from allocating too much memory.
const (
	maxChannels = 8192
	maxLevels   = 8
	maxLayers   = 16
	maxWeights  = 1 << 32 // 16 GiB in float32
)

// Validate returns an error for a configuration that New could not build. Fill in the defaults first.
func (c Config) Validate() error {
	if err := errors.Join(
		within("in_channels", c.InChannels, 1, 64), within("out_channels", c.OutChannels, 1, 64),
		within("latent_channels", c.LatentChannels, 1, 256), within("layers_per_block", c.Layers, 1, maxLayers),
		within("norm_num_groups", c.Groups, 1, maxChannels), within("sample_size", int(c.SampleSize), 1, 1<<16),
		within("the length of block_out_channels", len(c.Channels), 1, maxLevels), scale(c.ScalingFactor),
	); err != nil {
		return fmt.Errorf("vae config: %w", err)
	}
	if shift := c.ShiftFactor; shift != nil && !(math.Abs(*shift) <= 1e6) {
		return fmt.Errorf("vae config: shift_factor is %g: want a magnitude of at most 1e6", *shift)
	}
	for _, n := range c.Channels {
		if err := within("a number of block_out_channels", n, 1, maxChannels); err != nil {
			return fmt.Errorf("vae config: %w", err)
		}
		if n%c.Groups != 0 {
			return fmt.Errorf("vae config: block_out_channels has %d, which is not divisible by norm_num_groups %d", n, c.Groups)
		}
	}
	return bounded("vae config", Shapes(c))
}

func within(key string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("%s is %d: want %d to %d", key, v, lo, hi)
	}
	return nil
}

func scale(v float64) error {
	if !(v >= 1e-6 && v <= 1e6) {
		return fmt.Errorf("scaling_factor is %g: want 1e-6 to 1e6", v)
	}
	return nil
}

func bounded(what string, plan []nn.Shape) error {
	if n := nn.Count(plan); n > maxWeights {
		return fmt.Errorf("%s: the configuration has %d weights, the limit is %d", what, n, maxWeights)
	}
	return nil
}

const (
	klClass   = "AutoencoderKL"
	downBlock = "DownEncoderBlock2D"
	upBlock   = "UpDecoderBlock2D"
)

// ParseConfig reads the config.json of diffusers' AutoencoderKL. Missing keys have the defaults of that class, which are not Stable
// Diffusion's. Keys that do not affect the computation are ignored; unsupported values are errors.
func ParseConfig(data []byte) (Config, error) {
	c := Config{Channels: []int{64}, Layers: 1, SampleSize: 32}.WithDefaults()
	if err := c.parse(data); err != nil {
		return Config{}, fmt.Errorf("vae config: %w", err)
	}
	return c, c.Validate()
}

func (c *Config) parse(data []byte) error {
	k, err := open(data, klClass)
	if err != nil {
		return err
	}
	err = errors.Join(
		k.read("in_channels", &c.InChannels), k.read("out_channels", &c.OutChannels), k.read("latent_channels", &c.LatentChannels),
		k.read("block_out_channels", &c.Channels), k.read("layers_per_block", &c.Layers), k.read("norm_num_groups", &c.Groups),
		k.read("scaling_factor", &c.ScalingFactor), k.read("sample_size", &c.SampleSize), k.read("force_upcast", c.ForceUpcast),
		k.read("use_quant_conv", c.QuantConv), k.read("use_post_quant_conv", c.PostQuantConv),
		k.read("mid_block_add_attention", c.MidAttention),
		k.only("act_fn", `"silu"`, `"swish"`), k.only("latents_mean", "null"), k.only("latents_std", "null"),
	)
	if !k.null("shift_factor") {
		c.ShiftFactor = new(0.0)
		err = errors.Join(err, k.read("shift_factor", c.ShiftFactor))
	}
	for key, want := range map[string]string{"down_block_types": downBlock, "up_block_types": upBlock} {
		var types []string
		err = errors.Join(err, k.read(key, &types))
		if _, ok := k[key]; ok && !slices.Equal(types, slices.Repeat([]string{want}, min(len(c.Channels), maxLevels))) {
			err = errors.Join(err, fmt.Errorf("%s: want %s for each of %d levels, got %s", key, want, len(c.Channels), quote.Text(k[key])))
		}
	}
	return err
}

// MarshalJSON writes the config.json of diffusers, defaults included.
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
	}{klClass, plain(c), repeat(downBlock), repeat(upBlock), "silu"})
}

// members are the members of a JSON object by exact name; encoding/json would accept "Act_FN" for act_fn.
type members map[string]json.RawMessage

// open parses the config.json of a diffusers class.
func open(data []byte, classes ...string) (members, error) {
	const most = 1 << 20 // a config.json has about 1 kB
	if len(data) > most {
		return nil, fmt.Errorf("it has %d bytes: want at most %d", len(data), most)
	}
	var k members
	if err := configjson.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", quote.Error(err))
	}
	if k == nil {
		return nil, errors.New("want a JSON object, got null")
	}
	for i, c := range classes {
		classes[i] = `"` + c + `"`
	}
	return k, k.only("_class_name", classes...)
}

// null reports whether a key is missing or null.
func (k members) null(key string) bool { return k[key] == nil || string(k[key]) == "null" }

// read sets *to to the key's value, if it is present.
func (k members) read(key string, to any) error {
	v, ok := k[key]
	if !ok {
		return nil
	}
	what := "a number"
	switch list := to.(type) {
	case *int:
		what = "an integer"
	case *bool:
		what = "true or false"
	case *[]int:
		what, *list = "a list of integers", nil
	case *[]string:
		what = "a list of names"
	case *Size:
		what = "an integer, or a list of them"
	}
	if strings.Contains(string(v), "null") || json.Unmarshal(v, to) != nil {
		return fmt.Errorf("%s: want %s, got %s", key, what, quote.Text(v))
	}
	return nil
}

// only returns an error for values other than the supported ones.
func (k members) only(key string, supported ...string) error {
	v, ok := k[key]
	if ok && !slices.Contains(supported, string(v)) {
		return fmt.Errorf("%s: only %s is supported, the file has %s", key, strings.Join(supported, " or "), quote.Text(v))
	}
	return nil
}
