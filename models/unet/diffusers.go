package unet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
)

// DiffusersConfig is the config.json of diffusers' UNet2DModel.
type DiffusersConfig struct {
	Class             string          `json:"_class_name"`
	SampleSize        json.RawMessage `json:"sample_size"` // a number, a pair, or null
	InChannels        int             `json:"in_channels"`
	OutChannels       int             `json:"out_channels"`
	CenterInputSample bool            `json:"center_input_sample"`
	TimeEmbeddingType string          `json:"time_embedding_type"`
	TimeEmbeddingDim  *int            `json:"time_embedding_dim"`
	FreqShift         float64         `json:"freq_shift"`
	FlipSinToCos      bool            `json:"flip_sin_to_cos"`
	DownBlockTypes    []string        `json:"down_block_types"`
	MidBlockType      *string         `json:"mid_block_type"`
	UpBlockTypes      []string        `json:"up_block_types"`
	BlockOutChannels  []int           `json:"block_out_channels"`
	LayersPerBlock    int             `json:"layers_per_block"`
	MidBlockScale     float64         `json:"mid_block_scale_factor"`
	DownsamplePadding int             `json:"downsample_padding"`
	DownsampleType    string          `json:"downsample_type"`
	UpsampleType      string          `json:"upsample_type"`
	Dropout           float64         `json:"dropout"`
	ActFn             string          `json:"act_fn"`
	AttentionHeadDim  *int            `json:"attention_head_dim"`
	NormNumGroups     int             `json:"norm_num_groups"`
	AttnNormNumGroups *int            `json:"attn_norm_num_groups"`
	NormEps           float64         `json:"norm_eps"`
	TimeScaleShift    string          `json:"resnet_time_scale_shift"`
	AddAttention      bool            `json:"add_attention"`
	ClassEmbedType    *string         `json:"class_embed_type"`
	NumClassEmbeds    *int            `json:"num_class_embeds"`
	NumTrainTimesteps *int            `json:"num_train_timesteps"` // of a learned embedding only
}

// DiffusersDefaults returns the defaults of UNet2DModel for absent keys.
func DiffusersDefaults() DiffusersConfig {
	mid := "UNetMidBlock2D"
	head := 8
	return DiffusersConfig{
		SampleSize: json.RawMessage("null"), InChannels: 3, OutChannels: 3, TimeEmbeddingType: "positional", FlipSinToCos: true, MidBlockType: &mid,
		DownBlockTypes:   []string{"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
		UpBlockTypes:     []string{"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
		BlockOutChannels: []int{224, 448, 672, 896}, LayersPerBlock: 2, MidBlockScale: 1, DownsamplePadding: 1,
		DownsampleType: "conv", UpsampleType: "conv", ActFn: "silu", AttentionHeadDim: &head, NormNumGroups: 32, NormEps: 1e-5,
		TimeScaleShift: "default", AddAttention: true,
	}
}

// FromDiffusers reads the config.json of a diffusers UNet2DModel. Keys and values that are not supported are errors that name them; package
// unet2d has networks for more of them.
func FromDiffusers(data []byte) (Config, error) {
	fail := func(err error) (Config, error) { return Config{}, fmt.Errorf("unet: diffusers config: %w", err) }
	d := DiffusersDefaults()
	if err := configjson.UnmarshalDiffusers(data, &d); err != nil {
		return fail(err)
	}
	c, err := d.config()
	if err != nil {
		return fail(err)
	}
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return fail(err)
	}
	return c, nil
}

// config converts d to a Config, which is not validated yet.
func (d DiffusersConfig) config() (Config, error) {
	if err := d.supported(); err != nil {
		return Config{}, err
	}
	var side int
	var sides []int
	if json.Unmarshal(d.SampleSize, &side) != nil {
		if json.Unmarshal(d.SampleSize, &sides) != nil || len(sides) != 2 || sides[0] != sides[1] {
			return Config{}, fmt.Errorf("sample_size: want one number (only square images are supported), got %s", quote.Text(d.SampleSize))
		}
		side = sides[0]
	}
	if side < 1 {
		return Config{}, fmt.Errorf("sample_size: want a positive number, got %s: the image sizes with attention depend on it", quote.Text(d.SampleSize))
	}
	c := Config{
		Resolution: side, InChannels: d.InChannels, OutChannels: d.OutChannels, Blocks: d.LayersPerBlock,
		NoMidAttention: !d.AddAttention, ScaleShift: d.TimeScaleShift == "scale_shift", MidSkipScale: 1 / d.MidBlockScale,
		NormGroups: d.NormNumGroups, NormEps: d.NormEps, Embedding: Embedding(d.TimeEmbeddingType), Dropout: d.Dropout,
	}
	if c.Embedding == Positional {
		c.SinFirst, c.EndpointFreqs = !d.FlipSinToCos, d.FreqShift == 1
	}
	if d.AttentionHeadDim != nil {
		c.HeadDim = *d.AttentionHeadDim
	}
	if d.NumClassEmbeds != nil {
		c.Classes = *d.NumClassEmbeds
	}
	c.Channels = d.BlockOutChannels[0]
	for _, ch := range d.BlockOutChannels {
		if c.Channels < 1 || ch < 1 || ch%c.Channels != 0 {
			return Config{}, fmt.Errorf("block_out_channels: want multiples of the first, got %s", quote.Text(fmt.Sprint(d.BlockOutChannels)))
		}
		c.Mult = append(c.Mult, ch/c.Channels)
	}
	if err := d.blocks(&c); err != nil {
		return Config{}, err
	}
	c.PadAfter = c.Resample == ResampleConv && d.DownsamplePadding == 0
	return c, nil
}

// supported reports keys and values that are not supported.
func (d DiffusersConfig) supported() error {
	no := func(key string, want, got any) error {
		return fmt.Errorf("%s: only %v is supported, the file has %s", key, want, quote.Text(fmt.Sprint(got)))
	}
	levels := len(d.BlockOutChannels)
	switch {
	case d.Class != "" && d.Class != "UNet2DModel":
		return no("_class_name", "UNet2DModel", d.Class)
	case levels == 0 || len(d.DownBlockTypes) != levels || len(d.UpBlockTypes) != levels:
		return fmt.Errorf("down_block_types, up_block_types, block_out_channels: want one entry a level in each, got %d, %d and %d",
			len(d.DownBlockTypes), len(d.UpBlockTypes), levels)
	case d.CenterInputSample:
		return no("center_input_sample", false, true)
	case d.TimeEmbeddingType != string(Positional) && d.TimeEmbeddingType != string(Fourier):
		return no("time_embedding_type", "positional or fourier", d.TimeEmbeddingType)
	case d.TimeEmbeddingDim != nil && *d.TimeEmbeddingDim != 4*d.BlockOutChannels[0]:
		return no("time_embedding_dim", "4 times the first block_out_channels", *d.TimeEmbeddingDim)
	case d.FreqShift != 0 && d.FreqShift != 1:
		return no("freq_shift", "0 or 1", d.FreqShift)
	case d.MidBlockType == nil:
		return no("mid_block_type", "UNetMidBlock2D", "null")
	case *d.MidBlockType != "UNetMidBlock2D":
		return no("mid_block_type", "UNetMidBlock2D", *d.MidBlockType)
	case d.MidBlockScale <= 0:
		return no("mid_block_scale_factor", "a positive number", d.MidBlockScale)
	case d.DownsamplePadding != 0 && d.DownsamplePadding != 1:
		return no("downsample_padding", "0 or 1", d.DownsamplePadding)
	case d.ActFn != "silu" && d.ActFn != "swish":
		return no("act_fn", "silu", d.ActFn)
	case d.NormNumGroups < 1:
		return no("norm_num_groups", "a positive number", d.NormNumGroups)
	case d.AttentionHeadDim != nil && *d.AttentionHeadDim < 1:
		return no("attention_head_dim", "a positive number or null", *d.AttentionHeadDim)
	case d.TimeScaleShift != "default" && d.TimeScaleShift != "scale_shift":
		return no("resnet_time_scale_shift", "default or scale_shift", d.TimeScaleShift)
	case d.AttnNormNumGroups != nil && *d.AttnNormNumGroups != d.NormNumGroups:
		return no("attn_norm_num_groups", "norm_num_groups", *d.AttnNormNumGroups)
	case d.AttnNormNumGroups == nil && d.TimeScaleShift == "scale_shift" && d.AddAttention:
		return fmt.Errorf("attn_norm_num_groups: null with scale_shift is not supported: UNet2DModel then omits the norm of the middle block's attention")
	case d.ClassEmbedType != nil:
		return no("class_embed_type", "null (with num_class_embeds)", *d.ClassEmbedType)
	case d.NumClassEmbeds != nil && *d.NumClassEmbeds < 1:
		return no("num_class_embeds", "a positive number or null", *d.NumClassEmbeds)
	}
	return nil
}

// blocks sets the image sizes with attention and the resampling method from the block types.
func (d DiffusersConfig) blocks(c *Config) error {
	levels := len(d.BlockOutChannels)
	for i, down := range d.DownBlockTypes {
		up := d.UpBlockTypes[levels-1-i]
		downAttends, downKind, err := blockType(down, "Down", d.DownsampleType)
		if err != nil {
			return err
		}
		upAttends, upKind, err := blockType(up, "Up", d.UpsampleType)
		if err != nil {
			return err
		}
		if downAttends != upAttends {
			return fmt.Errorf("down_block_types, up_block_types: a level has to have attention in both or in neither, level %d has %s and %s", i, quote.Text(down), quote.Text(up))
		}
		if downAttends {
			c.Attention = append(c.Attention, c.Resolution>>i)
		}
		// The last level in each direction does not resample, whatever its type.
		for _, k := range []struct {
			kind Resample
			last bool
		}{{downKind, i == levels-1}, {upKind, i == 0}} {
			if k.last {
				continue
			}
			if c.Resample != "" && c.Resample != k.kind {
				return fmt.Errorf("down_block_types, up_block_types, downsample_type, upsample_type: only one resampling method is supported, these mix %s and %s",
					quote.Quoted(c.Resample), quote.Quoted(k.kind))
			}
			c.Resample = k.kind
		}
	}
	return nil
}

// blockType parses a block's type: whether it has attention, and its resampling method. way is "Down" or "Up"; byKey is the
// value of downsample_type or upsample_type, which applies to blocks with attention only.
func blockType(name, way, byKey string) (attends bool, kind Resample, err error) {
	switch strings.TrimPrefix(name, "UNetRes") {
	case way + "Block2D":
		return false, ResampleConv, nil
	case "Resnet" + way + "sampleBlock2D":
		return false, ResampleResidual, nil
	case "Attn" + way + "Block2D":
		switch byKey {
		case "conv":
			return true, ResampleConv, nil
		case "resnet":
			return true, ResampleResidual, nil
		}
		return false, "", fmt.Errorf("%ssample_type: only conv or resnet is supported, the file has %s", strings.ToLower(way), quote.Text(byKey))
	}
	return false, "", fmt.Errorf("%s_block_types: %s is not supported", strings.ToLower(way), quote.Text(name))
}

// Diffusers returns the config.json with which diffusers' UNet2DModel builds the same network, so that it can load this network's
// weights. The null class is an additional class there. A configuration that UNet2DModel cannot express is an error that says why.
func (c Config) Diffusers() ([]byte, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	fail := func(why string) ([]byte, error) { return nil, fmt.Errorf("unet: UNet2DModel cannot express %s", why) }
	levels := len(c.Mult)
	switch {
	case c.SkipScale != 1:
		return fail("skip_scale")
	case c.ResampleSkip && c.Resample == ResampleResidual && levels > 1:
		return fail("resample_skip")
	case c.LastDecoderAttention && len(c.Attention) > 0:
		return fail("last_decoder_attention")
	case c.Filter != nil && levels > 1:
		return fail("filter")
	case c.ResidualInput && levels > 1:
		return fail("residual_input")
	case c.Heads > 1 && (len(c.Attention) > 0 || !c.NoMidAttention):
		return fail("heads")
	case c.EmbeddingChannels != 0 && c.EmbeddingChannels != c.Channels:
		return fail("embedding_channels")
	case c.LabelsFirst:
		return fail("labels_first")
	case c.Augment > 0:
		return fail("augment")
	case c.Until:
		return fail("until")
	case c.Guidance:
		return fail("guidance")
	}
	var groups []int
	for _, ch := range c.normed() {
		groups = append(groups, c.groups(ch))
	}
	if slices.Min(groups) != slices.Max(groups) {
		return fail(fmt.Sprintf("group norms with different numbers of groups, %d to %d: set norm_groups", slices.Min(groups), slices.Max(groups)))
	}
	d := DiffusersDefaults()
	d.Class, d.SampleSize = "UNet2DModel", fmt.Append(nil, c.Resolution)
	d.InChannels, d.OutChannels, d.LayersPerBlock, d.Dropout = c.InChannels, c.OutChannels, c.Blocks, c.Dropout
	d.TimeEmbeddingType, d.FlipSinToCos = string(c.Embedding), c.Embedding == Positional && !c.SinFirst
	if c.EndpointFreqs && c.Embedding == Positional {
		d.FreqShift = 1
	}
	d.MidBlockScale, d.AddAttention = 1/c.MidSkipScale, !c.NoMidAttention
	d.NormNumGroups, d.AttnNormNumGroups, d.NormEps = groups[0], &groups[0], c.NormEps
	if d.AttentionHeadDim = nil; c.HeadDim > 0 {
		d.AttentionHeadDim = &c.HeadDim
	}
	if labels := c.labels(); labels > 0 {
		d.NumClassEmbeds = &labels
	}
	if c.ScaleShift {
		d.TimeScaleShift = "scale_shift"
	}
	if c.PadAfter {
		d.DownsamplePadding = 0
	}
	plain := [2]string{"DownBlock2D", "UpBlock2D"}
	if c.Resample == ResampleResidual && levels > 1 {
		d.DownsampleType, d.UpsampleType = "resnet", "resnet"
		plain = [2]string{"ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"}
	}
	d.DownBlockTypes, d.UpBlockTypes, d.BlockOutChannels = nil, make([]string, levels), nil
	for i, m := range c.Mult {
		types := plain
		if c.attendsAt(c.Resolution >> i) {
			types = [2]string{"AttnDownBlock2D", "AttnUpBlock2D"}
		}
		d.DownBlockTypes = append(d.DownBlockTypes, types[0])
		d.UpBlockTypes[levels-1-i] = types[1]
		d.BlockOutChannels = append(d.BlockOutChannels, c.Channels*m)
	}
	return json.MarshalIndent(d, "", "  ")
}
