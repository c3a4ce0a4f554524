package unet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/nn"
)

// Encoder is the common part of the configurations of a U-Net and a ControlNet: the down blocks and the middle block. JSON keys are those
// of diffusers' config.json. Levels are ordered from the highest resolution to the lowest.
type Encoder struct {
	InChannels int `json:"in_channels"` // of the latents; 9 for inpainting: latents, mask and masked latents; 0: 4

	BlockOutChannels Ints     `json:"block_out_channels"` // per level; nil: 320, 640, 1280, 1280
	DownBlockTypes   []string `json:"down_block_types"`   // per level; nil: CrossAttnDownBlock2D, the last one DownBlock2D
	MidBlockType     Middle   `json:"mid_block_type"`     // "": MidCrossAttention
	LayersPerBlock   Ints     `json:"layers_per_block"`   // residual blocks per level; nil: 2
	NormNumGroups    int      `json:"norm_num_groups"`    // 0: 32
	NormEps          float64  `json:"norm_eps"`           // of the norms in residual blocks and of the last norm; 0: 1e-5

	AttentionHeadDim    Ints   `json:"attention_head_dim"`           // the number of heads, in spite of its name; nil: 8
	CrossAttentionDim   Ints   `json:"cross_attention_dim"`          // width of the text features, the same in all levels; nil: 1280
	TransformerLayers   Depths `json:"transformer_layers_per_block"` // nil: 1
	UseLinearProjection bool   `json:"use_linear_projection"`        // projections around transformers are linear layers, not 1×1 convolutions
	UpcastAttention     bool   `json:"upcast_attention"`             // no effect: softmax is computed in float32, as in diffusers

	SinFirst  Not `json:"flip_sin_to_cos"` // in the timestep embedding, sines before cosines
	FreqShift int `json:"freq_shift"`      // 1: the last frequency is exactly 1/10000

	// "text_time": the network has an additional embedding of the pooled text features and the sizes (SDXL). Each size is embedded as
	// AdditionTimeEmbedDim sines and cosines; with the pooled features they are ProjectionInputDim values. "": no additional embedding.
	AdditionEmbedType    string `json:"addition_embed_type,omitempty"`
	AdditionTimeEmbedDim int    `json:"addition_time_embed_dim,omitempty"`
	ProjectionInputDim   int    `json:"projection_class_embeddings_input_dim,omitempty"`
}

// Config describes a U-Net. Its zero value has the defaults of diffusers' UNet2DConditionModel: see WithDefaults. Its JSON is a config.json
// that diffusers reads.
type Config struct {
	Encoder
	SampleSize  Ints `json:"sample_size,omitempty"` // height and width of latents in training, or a single number for both; nil: unknown
	OutChannels int  `json:"out_channels"`          // 0: 4

	// The up blocks, from the lowest resolution to the highest. nil: UpBlock2D, then CrossAttnUpBlock2D; depths as in the down blocks.
	UpBlockTypes             []string `json:"up_block_types"`
	ReverseTransformerLayers Depths   `json:"reverse_transformer_layers_per_block,omitempty"`

	// Size of the guidance embedding of a full LCM; 0: no guidance embedding.
	TimeCondProjDim  int `json:"time_cond_proj_dim,omitempty"`
	TimeEmbeddingDim int `json:"time_embedding_dim,omitempty"` // width of the timestep embedding; 0: 4 times the channels of the first level
}

// ControlNetConfig describes a ControlNet. Its zero value has the defaults of diffusers' ControlNetModel: see WithDefaults. Its JSON is a
// config.json that diffusers reads.
type ControlNetConfig struct {
	Encoder
	ConditioningChannels int `json:"conditioning_channels"` // of the control image; 0: 3

	// Channels of the control image's embedding; each entry but the first halves the resolution. nil: 16, 32, 96, 256.
	EmbeddingChannels Ints `json:"conditioning_embedding_out_channels"`

	// The channel order in training, "rgb" or "bgr"; "": "rgb". Forward takes RGB in either case.
	ChannelOrder string `json:"controlnet_conditioning_channel_order"`
}

// The types of a level's blocks.
const (
	downBlock      = "DownBlock2D"
	crossDownBlock = "CrossAttnDownBlock2D"
	upBlock        = "UpBlock2D"
	crossUpBlock   = "CrossAttnUpBlock2D"
)

// Middle is the type of the middle block. NoMid is null in JSON.
type Middle string

// The types of middle block.
const (
	MidCrossAttention Middle = "UNetMidBlock2DCrossAttn" // a residual block, a transformer, a residual block
	MidResidual       Middle = "UNetMidBlock2D"          // one residual block
	NoMid             Middle = "none"
)

// UnmarshalJSON reads a name or null.
func (m *Middle) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*m = NoMid
		return nil
	}
	return json.Unmarshal(b, (*string)(m))
}

// MarshalJSON writes what UnmarshalJSON reads.
func (m Middle) MarshalJSON() ([]byte, error) {
	if m == NoMid {
		return []byte("null"), nil
	}
	return json.Marshal(string(m))
}

// Not is a boolean that is negated in JSON.
type Not bool

// UnmarshalJSON reads false as true.
func (n *Not) UnmarshalJSON(b []byte) error {
	v := !bool(*n)
	err := json.Unmarshal(b, &v)
	*n = Not(!v)
	return err
}

// MarshalJSON writes true as false.
func (n Not) MarshalJSON() ([]byte, error) { return json.Marshal(!bool(n)) }

// Ints has a number for each level, or a single one for all. In JSON a single one may stand without brackets.
type Ints []int

// UnmarshalJSON reads a number or a list of numbers.
func (v *Ints) UnmarshalJSON(b []byte) error {
	if b[0] != '[' {
		b = slices.Concat([]byte{'['}, b, []byte{']'})
	}
	if err := json.Unmarshal(b, (*[]int)(v)); err != nil {
		return err
	}
	return filled(*v)
}

// MarshalJSON writes a single number without brackets.
func (v Ints) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return json.Marshal(v[0])
	}
	return json.Marshal([]int(v))
}

func filled[T any](list []T) error {
	if len(list) == 0 {
		return errors.New("the list is empty")
	}
	return nil
}

// at returns the number for level i.
func (v Ints) at(i int) int {
	if len(v) == 1 {
		return v[0]
	}
	return v[i]
}

// Depths are the numbers of transformer blocks after the residual blocks of each level: an entry has one number for each residual block or
// one for all, and a single entry is for all levels. nil: 1 everywhere.
type Depths []Ints

// UnmarshalJSON reads a number or a list of numbers and lists.
func (d *Depths) UnmarshalJSON(b []byte) error {
	if b[0] != '[' {
		b = slices.Concat([]byte{'['}, b, []byte{']'})
	}
	if err := json.Unmarshal(b, (*[]Ints)(d)); err != nil {
		return err
	}
	return filled(*d)
}

// MarshalJSON writes a single number without brackets.
func (d Depths) MarshalJSON() ([]byte, error) {
	if len(d) == 1 && len(d[0]) == 1 {
		return json.Marshal(d[0])
	}
	return json.Marshal([]Ints(d))
}

// at returns the depth after residual block j of level i.
func (d Depths) at(i, j int) int {
	if len(d) == 1 {
		return d[0].at(j)
	}
	return d[i].at(j)
}

func (e Encoder) withDefaults() Encoder {
	def(&e.InChannels, 4)
	defList(&e.BlockOutChannels, 320, 640, 1280, 1280)
	defList(&e.DownBlockTypes, crossDownBlock, crossDownBlock, crossDownBlock, downBlock)
	def(&e.MidBlockType, MidCrossAttention)
	defList(&e.LayersPerBlock, 2)
	def(&e.NormNumGroups, 32)
	def(&e.NormEps, 1e-5)
	defList(&e.AttentionHeadDim, 8)
	defList(&e.CrossAttentionDim, 1280)
	defList(&e.TransformerLayers, Ints{1})
	return e
}

// WithDefaults returns the configuration with every field that was left at zero filled in.
func (c Config) WithDefaults() Config {
	c.Encoder = c.withDefaults()
	def(&c.OutChannels, 4)
	defList(&c.UpBlockTypes, upBlock, crossUpBlock, crossUpBlock, crossUpBlock)
	def(&c.TimeEmbeddingDim, 4*c.BlockOutChannels[0])
	return c
}

// WithDefaults returns the configuration with every field that was left at zero filled in.
func (c ControlNetConfig) WithDefaults() ControlNetConfig {
	c.Encoder = c.withDefaults()
	def(&c.ConditioningChannels, 3)
	defList(&c.EmbeddingChannels, 16, 32, 96, 256)
	def(&c.ChannelOrder, "rgb")
	return c
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func defList[L ~[]T, T any](p *L, v ...T) {
	if len(*p) == 0 {
		*p = v
	}
}

const (
	maxLevels  = 8
	maxLayers  = 8       // residual blocks of a level
	maxDepth   = 32      // transformer blocks after one of them
	maxWidth   = 1 << 14 // channels of a level, features of a token
	maxWeights = 1 << 33 // 32 GiB in float32, three times the largest network of this family
)

// Validate returns an error for a configuration that New could not build. Fill in the defaults first.
func (c Config) Validate() error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("unet: %w", err)
	}
	if err := c.validateUp(); err != nil {
		return fmt.Errorf("unet: %w", err)
	}
	return bounded("unet", Shapes(c))
}

// validateUp checks what a ControlNet does not have.
func (c Config) validateUp() error {
	n := c.levels()
	if len(c.SampleSize) > 2 {
		return fmt.Errorf("sample_size: want a number or two, got %d", len(c.SampleSize))
	}
	for _, err := range []error{
		within("out_channels", c.OutChannels, 1, 1024),
		within("time_cond_proj_dim", c.TimeCondProjDim, 0, maxWidth),
		within("time_embedding_dim", c.TimeEmbeddingDim, 1, 8*maxWidth),
		each("sample_size", c.SampleSize, 1, 1<<16),
		perLevel("up_block_types", len(c.UpBlockTypes), n),
		oneOf("up_block_types", c.UpBlockTypes, upBlock, crossUpBlock),
	} {
		if err != nil {
			return err
		}
	}
	if d := c.TimeCondProjDim; d > 0 && d < 4 {
		return fmt.Errorf("time_cond_proj_dim: want at least 4 sines and cosines, got %d", d)
	}
	uneven := func(v Ints) bool { return len(v) > 1 }
	if len(c.ReverseTransformerLayers) == 0 && slices.ContainsFunc(c.TransformerLayers, uneven) {
		return errors.New("transformer_layers_per_block has a list for a level, which says nothing of the way up; " +
			"set reverse_transformer_layers_per_block")
	}
	for i := range n {
		if c.UpBlockTypes[i] == crossUpBlock {
			if err := c.divides(n - 1 - i); err != nil {
				return err
			}
		}
	}
	return c.depths("reverse_transformer_layers_per_block", c.ReverseTransformerLayers, func(i int) int {
		return c.LayersPerBlock.at(n-1-i) + 1
	})
}

// Validate returns an error for a configuration that NewControlNet could not build. Fill in the defaults first.
func (c ControlNetConfig) Validate() error {
	fail := func(err error) error { return fmt.Errorf("controlnet: %w", err) }
	if err := c.validate(); err != nil {
		return fail(err)
	}
	for _, err := range []error{
		within("conditioning_channels", c.ConditioningChannels, 1, 1024),
		each("conditioning_embedding_out_channels", c.EmbeddingChannels, 1, maxWidth),
		within("the number of conditioning_embedding_out_channels", len(c.EmbeddingChannels), 1, 8),
		oneOf("controlnet_conditioning_channel_order", []string{c.ChannelOrder}, "rgb", "bgr"),
		oneOf("mid_block_type", []Middle{c.MidBlockType}, MidCrossAttention, MidResidual),
	} {
		if err != nil {
			return fail(err)
		}
	}
	if len(c.LayersPerBlock) > 1 {
		return fail(fmt.Errorf("layers_per_block: want a single number, got %d", len(c.LayersPerBlock)))
	}
	return bounded("controlnet", ControlNetShapes(c))
}

func (e Encoder) levels() int { return len(e.BlockOutChannels) }

// validate checks the fields of Encoder.
func (e Encoder) validate() error {
	n := e.levels()
	for _, err := range []error{
		within("the number of block_out_channels", n, 1, maxLevels),
		each("block_out_channels", e.BlockOutChannels, 1, maxWidth),
		within("in_channels", e.InChannels, 1, 1024),
		perLevel("down_block_types", len(e.DownBlockTypes), n),
		oneOf("down_block_types", e.DownBlockTypes, downBlock, crossDownBlock),
		oneOf("mid_block_type", []Middle{e.MidBlockType}, MidCrossAttention, MidResidual, NoMid),
		forLevels("layers_per_block", e.LayersPerBlock, n, 1, maxLayers),
		forLevels("attention_head_dim", e.AttentionHeadDim, n, 1, maxWidth),
		forLevels("cross_attention_dim", e.CrossAttentionDim, n, 1, maxWidth),
		within("norm_num_groups", e.NormNumGroups, 1, maxWidth),
		within("freq_shift", e.FreqShift, 0, 1),
	} {
		if err != nil {
			return err
		}
	}
	for _, d := range e.CrossAttentionDim {
		if d != e.CrossAttentionDim[0] {
			return fmt.Errorf("cross_attention_dim: only the same number for all levels is supported, got %v", e.CrossAttentionDim)
		}
	}
	for i, c := range e.BlockOutChannels {
		if c%e.NormNumGroups != 0 {
			return fmt.Errorf("block_out_channels: %d of level %d is not divisible by norm_num_groups %d",
				c, i, e.NormNumGroups)
		}
		if e.DownBlockTypes[i] == crossDownBlock || (i == n-1 && e.MidBlockType == MidCrossAttention) {
			if err := e.divides(i); err != nil {
				return err
			}
		}
	}
	switch first := e.BlockOutChannels[0]; {
	case !(e.NormEps > 0 && e.NormEps < 1):
		return fmt.Errorf("norm_eps: want a number in (0, 1), got %g", e.NormEps)
	case first%2 != 0 || first <= 2*e.FreqShift:
		return fmt.Errorf("block_out_channels: the first entry is also the number of sines and cosines of the timestep: "+
			"want an even number above %d, got %d", 2*e.FreqShift, first)
	}
	if err := e.validateAddition(); err != nil {
		return err
	}
	return e.depths("transformer_layers_per_block", e.TransformerLayers, e.LayersPerBlock.at)
}

// validateAddition checks the fields of the additional embedding.
func (e Encoder) validateAddition() error {
	switch {
	case e.AdditionEmbedType == "":
		return nil
	case e.AdditionEmbedType != textTime:
		return fmt.Errorf("addition_embed_type: only %s or null is supported, got %s", textTime, quote.Quoted(e.AdditionEmbedType))
	case e.AdditionTimeEmbedDim < 2*(1+e.FreqShift) || e.AdditionTimeEmbedDim > maxWidth || e.AdditionTimeEmbedDim%2 != 0:
		return fmt.Errorf("addition_time_embed_dim: want an even number from %d to %d, got %d",
			2*(1+e.FreqShift), maxWidth, e.AdditionTimeEmbedDim)
	}
	return within("projection_class_embeddings_input_dim", e.ProjectionInputDim, e.AdditionTimeEmbedDim+1, 8*maxWidth)
}

// textTime is the only kind of additional embedding.
const textTime = "text_time"

// divides reports an error if the channels of level i are not divisible by its heads.
func (e Encoder) divides(i int) error {
	if c, heads := e.BlockOutChannels[i], e.AttentionHeadDim.at(i); c%heads != 0 {
		return fmt.Errorf("attention_head_dim: the %d channels of level %d are not divisible by %d heads "+
			"(in spite of its name, the key is the number of heads)", c, i, heads)
	}
	return nil
}

// depths checks that d has an entry for each level, or one for all, and each of them a number for each of the level's
// layers, or one for all.
func (e Encoder) depths(key string, d Depths, layers func(level int) int) error {
	if len(d) > 1 {
		if err := perLevel(key, len(d), e.levels()); err != nil {
			return err
		}
	}
	for i, v := range d {
		if want := layers(i); len(v) != 1 && (len(v) != want || len(d) != e.levels()) {
			return fmt.Errorf("%s: want one number, or one for each of the %d residual blocks, in entry %d, got %d numbers",
				key, want, i, len(v))
		}
		if err := each(key, v, 0, maxDepth); err != nil {
			return err
		}
	}
	return nil
}

func within(what string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("%s: want %d to %d, got %d", what, lo, hi, v)
	}
	return nil
}

func each(what string, list Ints, lo, hi int) error {
	for _, v := range list {
		if err := within(what, v, lo, hi); err != nil {
			return err
		}
	}
	return nil
}

func perLevel(what string, got, levels int) error {
	if got != levels {
		return fmt.Errorf("%s: want %d, one for each level of block_out_channels, got %d", what, levels, got)
	}
	return nil
}

// forLevels checks that list has a number for each level, or one for all.
func forLevels(what string, list Ints, levels, lo, hi int) error {
	if len(list) != 1 {
		if err := perLevel(what, len(list), levels); err != nil {
			return err
		}
	}
	return each(what, list, lo, hi)
}

func oneOf[T ~string](what string, got []T, names ...T) error {
	for _, v := range got {
		if !slices.Contains(names, v) {
			all := string(names[0])
			for _, n := range names[1:] {
				all += " or " + string(n)
			}
			return fmt.Errorf("%s: only %s is supported, got %s", what, all, quote.Quoted(v))
		}
	}
	return nil
}

// bounded refuses networks far larger than any published one.
func bounded(what string, plan []nn.Shape) error {
	if n := nn.Count(plan); n > maxWeights {
		return fmt.Errorf("%s: the configuration has %d weights, the limit is %d", what, n, maxWeights)
	}
	return nil
}
