package unet2d

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/unet"
)

// file is the config.json of a UNet2DModel. Keys that may be null there and whose null is not the default are pointers.
type file struct {
	unet.DiffusersConfig
	NormNumGroups *int `json:"norm_num_groups"`
}

func defaults() file {
	f := file{DiffusersConfig: unet.DiffusersDefaults()}
	f.NormNumGroups = &f.DiffusersConfig.NormNumGroups
	return f
}

// FromDiffusers reads the config.json of a UNet2DModel. Keys and values that are not supported are errors that name them.
func FromDiffusers(data []byte) (Config, error) {
	fail := func(err error) (Config, error) { return Config{}, fmt.Errorf("unet2d: diffusers config: %w", err) }
	f := defaults()
	if err := configjson.UnmarshalDiffusers(data, &f); err != nil {
		return fail(err)
	}
	c, err := f.config()
	if err != nil {
		return fail(err)
	}
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return fail(err)
	}
	return c, nil
}

// config converts f to a Config, which is not validated yet.
func (f file) config() (Config, error) {
	if err := f.supported(); err != nil {
		return Config{}, err
	}
	h, w, err := f.size()
	if err != nil {
		return Config{}, err
	}
	c := Config{
		Height: h, Width: w, InChannels: f.InChannels, OutChannels: f.OutChannels, Channels: f.BlockOutChannels, Layers: f.LayersPerBlock,
		DownType: Resample(f.DownsampleType), UpType: Resample(f.UpsampleType), PadAfter: f.DownsamplePadding == 0,
		NoMid: f.MidBlockType == nil, NoMidAttention: !f.AddAttention, MidScale: f.MidBlockScale, NormEps: f.NormEps,
		ScaleShift: f.TimeScaleShift == "scale_shift", Embedding: unet.Embedding(f.TimeEmbeddingType), Center: f.CenterInputSample, Dropout: f.Dropout,
	}
	for _, b := range f.DownBlockTypes {
		c.Down = append(c.Down, Block(strings.TrimPrefix(b, "UNetRes"))) // as in diffusers
	}
	for _, b := range f.UpBlockTypes {
		c.Up = append(c.Up, Block(strings.TrimPrefix(b, "UNetRes")))
	}
	if c.Embedding == unet.Positional {
		c.SinFirst, c.FreqShift = !f.FlipSinToCos, int(f.FreqShift)
	}
	of := func(p *int) int {
		if p == nil {
			return 0
		}
		return *p
	}
	c.NormGroups, c.MidGroups, c.HeadDim = of(f.NormNumGroups), of(f.AttnNormNumGroups), of(f.AttentionHeadDim)
	c.EmbeddingWidth, c.Classes = of(f.TimeEmbeddingDim), of(f.NumClassEmbeds)
	if f.AttnNormNumGroups == nil && c.ScaleShift {
		c.MidGroups = -1 // as in diffusers
	}
	if f.AttnNormNumGroups != nil && c.MidGroups == c.NormGroups {
		c.MidGroups = 0
	}
	if f.ClassEmbedType != nil {
		c.ClassLabels = true
	}
	if f.NormNumGroups == nil && !c.allSkip() {
		return Config{}, fmt.Errorf("norm_num_groups: null is only for blocks with an image beside the features, such as %s", SkipDownBlock)
	}
	return c, nil
}

// allSkip reports whether all levels have blocks with an image beside the features.
func (c Config) allSkip() bool {
	return !slices.ContainsFunc(c.Down, func(b Block) bool { return !downs[b].skip }) &&
		!slices.ContainsFunc(c.Up, func(b Block) bool { return !ups[b].skip })
}

// size returns the image size.
func (f file) size() (h, w int, err error) {
	var side int
	if json.Unmarshal(f.SampleSize, &side) == nil && string(f.SampleSize) != "null" {
		if side < 1 {
			return 0, 0, fmt.Errorf("sample_size: want a positive number, got %s", quote.Text(f.SampleSize))
		}
		return side, side, nil
	}
	var sides []int
	switch {
	case string(f.SampleSize) == "null":
		return 0, 0, fmt.Errorf("sample_size: null: want the size of the training images, in pixels, such as 32")
	case json.Unmarshal(f.SampleSize, &sides) != nil || len(sides) != 2 || sides[0] < 1 || sides[1] < 1:
		return 0, 0, fmt.Errorf("sample_size: want a positive number or a pair of them, got %s", quote.Text(f.SampleSize))
	}
	return sides[0], sides[1], nil
}

// supported reports keys and values that are not supported.
func (f file) supported() error {
	no := func(key string, want, got any) error {
		return fmt.Errorf("%s: only %v is supported, the file has %s", key, want, quote.Text(fmt.Sprint(got)))
	}
	levels := len(f.BlockOutChannels)
	for _, v := range []struct {
		key   string
		value *int
	}{
		{"norm_num_groups", f.NormNumGroups}, {"attn_norm_num_groups", f.AttnNormNumGroups}, {"attention_head_dim", f.AttentionHeadDim},
		{"time_embedding_dim", f.TimeEmbeddingDim}, {"num_class_embeds", f.NumClassEmbeds},
	} {
		if v.value != nil && *v.value < 1 {
			return no(v.key, "a positive number or null", *v.value)
		}
	}
	switch {
	case f.Class != "" && f.Class != Class:
		return no("_class_name", Class, f.Class)
	case levels == 0 || len(f.DownBlockTypes) != levels || len(f.UpBlockTypes) != levels:
		return fmt.Errorf("down_block_types, up_block_types, block_out_channels: want one entry a level in each, got %d, %d and %d",
			len(f.DownBlockTypes), len(f.UpBlockTypes), levels)
	case f.TimeEmbeddingType != string(unet.Positional) && f.TimeEmbeddingType != string(unet.Fourier):
		return no("time_embedding_type", "positional or fourier", f.TimeEmbeddingType)
	case f.FreqShift != float64(int(f.FreqShift)):
		return no("freq_shift", "an integer", f.FreqShift)
	case f.MidBlockType != nil && *f.MidBlockType != "UNetMidBlock2D":
		return no("mid_block_type", "UNetMidBlock2D or null", *f.MidBlockType)
	case !(f.MidBlockScale > 0):
		return no("mid_block_scale_factor", "a positive number", f.MidBlockScale)
	case f.DownsamplePadding != 0 && f.DownsamplePadding != 1:
		return no("downsample_padding", "0 or 1", f.DownsamplePadding)
	case f.ActFn != "silu" && f.ActFn != "swish":
		return no("act_fn", "silu", f.ActFn)
	case f.TimeScaleShift != "default" && f.TimeScaleShift != "scale_shift":
		return no("resnet_time_scale_shift", "default or scale_shift", f.TimeScaleShift)
	case f.ClassEmbedType != nil && *f.ClassEmbedType != "timestep":
		return no("class_embed_type", "timestep or null", *f.ClassEmbedType)
	case f.ClassEmbedType != nil && f.NumClassEmbeds == nil:
		return fmt.Errorf("class_embed_type: timestep needs num_class_embeds, the number of classes, which is null")
	}
	return nil
}

// Class is the name of diffusers' class.
const Class = "UNet2DModel"

// Diffusers returns the config.json with which diffusers' UNet2DModel builds the same network, so that it can load this network's
// weights. The null class is an additional class there. A configuration that UNet2DModel cannot express is an error that says why.
func (c Config) Diffusers() ([]byte, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	fail := func(why string) ([]byte, error) { return nil, fmt.Errorf("unet2d: UNet2DModel cannot express %s", why) }
	switch {
	case c.Until:
		return fail("until")
	case c.Guidance:
		return fail("guidance")
	case c.NormGroups == 0 && !c.allSkip():
		return fail("norm_groups 0")
	case c.MidGroups < 0 && !c.ScaleShift && !c.NoMidAttention && !c.NoMid:
		return fail("a middle block's attention without a norm: set scale_shift")
	}
	f := defaults()
	f.Class, f.InChannels, f.OutChannels, f.BlockOutChannels, f.LayersPerBlock = Class, c.InChannels, c.OutChannels, c.Channels, c.Layers
	f.SampleSize = fmt.Append(nil, c.Height)
	if c.Width != c.Height {
		f.SampleSize = fmt.Appendf(nil, "[%d,%d]", c.Height, c.Width)
	}
	f.DownBlockTypes, f.UpBlockTypes = nil, nil
	for _, b := range c.Down {
		f.DownBlockTypes = append(f.DownBlockTypes, string(b))
	}
	for _, b := range c.Up {
		f.UpBlockTypes = append(f.UpBlockTypes, string(b))
	}
	f.DownsampleType, f.UpsampleType = string(c.DownType), string(c.UpType)
	if c.PadAfter {
		f.DownsamplePadding = 0
	}
	if c.NoMid {
		f.MidBlockType = nil
	}
	f.MidBlockScale, f.AddAttention = c.MidScale, !c.NoMidAttention
	or := func(v int) *int {
		if v <= 0 {
			return nil
		}
		return &v
	}
	f.NormNumGroups, f.AttentionHeadDim = or(c.NormGroups), or(c.HeadDim)
	if f.AttnNormNumGroups = or(c.MidGroups); c.MidGroups == 0 && c.ScaleShift {
		f.AttnNormNumGroups = or(c.NormGroups)
	}
	f.NormEps, f.Dropout, f.CenterInputSample = c.NormEps, c.Dropout, c.Center
	if c.ScaleShift {
		f.TimeScaleShift = "scale_shift"
	}
	f.TimeEmbeddingType, f.FlipSinToCos, f.FreqShift = string(c.Embedding), c.Embedding == unet.Positional && !c.SinFirst, float64(c.FreqShift)
	if c.EmbeddingWidth != 4*c.Channels[0] {
		f.TimeEmbeddingDim = &c.EmbeddingWidth
	}
	if labels := c.labels(); labels > 0 {
		f.NumClassEmbeds = &labels
	}
	if c.ClassLabels {
		f.ClassEmbedType = new("timestep")
	}
	return json.MarshalIndent(f, "", "  ")
}
