package unet2d

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/unet"
)

// Block is the type of a level's blocks, by the name of diffusers' class.
type Block string

// The types of a level's blocks. The last level in each direction does not resample.
const (
	DownBlock Block = "DownBlock2D" // residual blocks, then a strided convolution
	UpBlock   Block = "UpBlock2D"   // residual blocks, then nearest-neighbour interpolation and a convolution

	AttnDownBlock Block = "AttnDownBlock2D" // with attention after each residual block; resampling by Config.DownType
	AttnUpBlock   Block = "AttnUpBlock2D"   // and by Config.UpType

	ResnetDownBlock Block = "ResnetDownsampleBlock2D" // residual blocks, the last of which halves the image
	ResnetUpBlock   Block = "ResnetUpsampleBlock2D"   // or doubles it

	// Blocks of NCSN++ with the image beside the features (Song et al. 2021, "input skip" and "output skip"): the input image, halved at each
	// level by a filter, is added to the features, and each level of the decoder adds to an output image that is doubled from level to level.
	SkipDownBlock     Block = "SkipDownBlock2D"
	SkipUpBlock       Block = "SkipUpBlock2D"
	AttnSkipDownBlock Block = "AttnSkipDownBlock2D" // with attention after each residual block
	AttnSkipUpBlock   Block = "AttnSkipUpBlock2D"   // with attention after the last residual block
)

// traits are what distinguishes the types of blocks.
type traits struct {
	attends bool
	skip    bool // of NCSN++
	resnet  bool // resampled by a residual block
}

var (
	downs = map[Block]traits{
		DownBlock: {}, AttnDownBlock: {attends: true}, ResnetDownBlock: {resnet: true},
		SkipDownBlock: {skip: true, resnet: true}, AttnSkipDownBlock: {skip: true, resnet: true, attends: true},
	}
	ups = map[Block]traits{
		UpBlock: {}, AttnUpBlock: {attends: true}, ResnetUpBlock: {resnet: true},
		SkipUpBlock: {skip: true, resnet: true}, AttnSkipUpBlock: {skip: true, resnet: true, attends: true},
	}
)

// Resample is how levels of type [AttnDownBlock] and [AttnUpBlock] resample.
type Resample string

// The resampling methods.
const (
	Conv   Resample = "conv"   // by a convolution
	Resnet Resample = "resnet" // by a residual block
)

// Config describes a UNet2DModel. New fills in the defaults of zero fields: see WithDefaults. The comments name the keys of config.json where
// they differ.
type Config struct {
	Height      int `json:"height"`          // of the images, in pixels; 0: 32
	Width       int `json:"width,omitempty"` // 0: Height
	InChannels  int `json:"in_channels"`     // 0: 3
	OutChannels int `json:"out_channels"`    // 0: InChannels

	Channels []int    `json:"channels"`            // block_out_channels: of each level; nil: 64, 128, 128
	Down     []Block  `json:"down"`                // down_block_types; nil: DownBlock, with attention in the last level
	Up       []Block  `json:"up"`                  // up_block_types, from the smallest level on; nil: UpBlock, with attention in the first
	DownType Resample `json:"down_type,omitempty"` // downsample_type; "": Conv
	UpType   Resample `json:"up_type,omitempty"`   // upsample_type; "": Conv
	Layers   int      `json:"layers"`              // layers_per_block: residual blocks of a level of the encoder; the decoder has one more; 0: 2
	PadAfter bool     `json:"pad_after,omitempty"` // downsample_padding 0: strided convolutions are padded on the right and at the bottom only

	NoMid          bool    `json:"no_mid,omitempty"`           // mid_block_type null
	NoMidAttention bool    `json:"no_mid_attention,omitempty"` // add_attention false
	MidScale       float64 `json:"mid_scale,omitempty"`        // mid_block_scale_factor: divisor of the middle block's residual sums; 0: 1
	// MidGroups is attn_norm_num_groups: the groups of the norm before the middle block's attention; 0: as the other norms; -1: no norm.
	MidGroups int `json:"mid_groups,omitempty"`

	HeadDim    int     `json:"head_dim,omitempty"`    // attention_head_dim: channels per attention head; 0: one head
	NormGroups int     `json:"norm_groups,omitempty"` // norm_num_groups; 0: a quarter of each norm's channels, at most 32
	NormEps    float64 `json:"norm_eps,omitempty"`    // 0: 1e-5
	ScaleShift bool    `json:"scale_shift,omitempty"` // resnet_time_scale_shift: the embedding scales and shifts the second norm of residual blocks

	// Embedding is time_embedding_type. With unet.Fourier diffusers' class takes the noise level σ, embeds ln σ and divides its output by σ;
	// here the label is ln σ, and the output is not divided, so that models.VE over the network is the denoiser.
	Embedding      unet.Embedding `json:"embedding,omitempty"`       // "": unet.Positional
	EmbeddingWidth int            `json:"embedding_width,omitempty"` // time_embedding_dim; 0: 4 times the first of Channels
	SinFirst       bool           `json:"sin_first,omitempty"`       // flip_sin_to_cos false: positional: sines before cosines
	FreqShift      int            `json:"freq_shift,omitempty"`      // positional: with 1 the last frequency is exactly 1/10000
	Center         bool           `json:"center,omitempty"`          // center_input_sample: the network computes with 2·x - 1

	Classes     int     `json:"classes,omitempty"`      // num_class_embeds: number of classes; 0: unconditional
	ClassLabels bool    `json:"class_labels,omitempty"` // class_embed_type timestep: the class's number is embedded as the noise label is
	NullLabel   bool    `json:"null_label,omitempty"`   // there is a null class, which classifier-free guidance needs: see NullClass
	Until       bool    `json:"until,omitempty"`        // the network takes the end of a jump: models.Cond.Until
	Guidance    bool    `json:"guidance,omitempty"`     // the network takes a guidance scale: models.Cond.Guidance
	Dropout     float64 `json:"dropout,omitempty"`      // dropout probability in every residual block, applied if models.Cond.Dropout is set
}

// WithDefaults returns the configuration with every zero field set to its default.
func (c Config) WithDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Height, 32)
	def(&c.Width, c.Height)
	def(&c.InChannels, 3)
	def(&c.OutChannels, c.InChannels)
	def(&c.Layers, 2)
	if c.Channels == nil {
		c.Channels = []int{64, 128, 128}
	}
	n := len(c.Channels)
	if c.Down == nil {
		c.Down = slices.Repeat([]Block{DownBlock}, n)
		if n > 0 {
			c.Down[n-1] = AttnDownBlock
		}
	}
	if c.Up == nil {
		c.Up = slices.Repeat([]Block{UpBlock}, n)
		if n > 0 {
			c.Up[0] = AttnUpBlock
		}
	}
	for _, p := range []*Resample{&c.DownType, &c.UpType} {
		if *p == "" {
			*p = Conv
		}
	}
	if c.MidScale == 0 {
		c.MidScale = 1
	}
	if c.NormEps == 0 {
		c.NormEps = 1e-5
	}
	if c.Embedding == "" {
		c.Embedding = unet.Positional
	}
	if n > 0 {
		def(&c.EmbeddingWidth, 4*c.Channels[0])
	}
	return c
}

// NullClass returns the label of the null class, which replaces labels in training (label dropout) and is the unconditional input of
// classifier-free guidance: the number of classes, or -1 if the network has no null class.
func (c Config) NullClass() int { return c.Inputs().NullClass() }

// labels returns the number of labels, with the null class.
func (c Config) labels() int {
	if c.NullLabel {
		return c.Classes + 1
	}
	return c.Classes
}

// embedded is the number of sines and cosines of the noise label.
func (c Config) embedded() int {
	if c.Embedding == unet.Fourier {
		return 2 * c.Channels[0]
	}
	return c.Channels[0]
}

// maxWeights is the limit of Validate: 32 GiB in float32, several times the largest network of this family.
const maxWeights = 1 << 33

// Validate reports the first invalid field of a configuration with its defaults filled in. New can build every configuration that
// passes, memory permitting.
func (c Config) Validate() error {
	for _, check := range []func() error{c.validateNumbers, c.validateTypes, c.validateSizes, c.validateNorms} {
		if err := check(); err != nil {
			return fmt.Errorf("unet2d: %w", err)
		}
	}
	if n := c.Count(); n > maxWeights {
		return fmt.Errorf("unet2d: the network would have %d weights, the limit is %d", n, maxWeights)
	}
	return nil
}

func (c Config) validateNumbers() error {
	within := func(what string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("%s: want %d to %d, got %d", what, lo, hi, v)
		}
		return nil
	}
	checks := []error{
		within("height", c.Height, 1, 4096),
		within("width", c.Width, 1, 4096),
		within("in_channels", c.InChannels, 1, 1024),
		within("out_channels", c.OutChannels, 1, 1024),
		within("levels (the length of channels)", len(c.Channels), 1, 10),
		within("layers", c.Layers, 1, 64),
		within("classes", c.Classes, 0, 1<<20),
		within("head_dim", c.HeadDim, 0, 4096),
		within("norm_groups", c.NormGroups, 0, 4096),
		within("mid_groups", c.MidGroups, -1, 4096),
		within("embedding_width", c.EmbeddingWidth, 1, 1<<16),
	}
	for _, ch := range c.Channels {
		checks = append(checks, within("channels", ch, 2, 1<<14))
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	half := c.Channels[0] / 2
	switch {
	case c.Channels[0]%2 != 0:
		return fmt.Errorf("channels: want an even number in the first level, for sines and cosines, got %d", c.Channels[0])
	case c.FreqShift < 0 || c.FreqShift >= half:
		return fmt.Errorf("freq_shift: want 0 to %d, below half of the first level's channels, got %d", half-1, c.FreqShift)
	case !(c.Dropout >= 0 && c.Dropout < 1):
		return fmt.Errorf("dropout: want a probability in [0, 1), got %g", c.Dropout)
	case !(c.NormEps > 0 && c.NormEps < 1):
		return fmt.Errorf("norm_eps: want a number in (0, 1), got %g", c.NormEps)
	case !(c.MidScale >= 1.0/16 && c.MidScale <= 16):
		return fmt.Errorf("mid_scale: want a number from 1/16 to 16, got %g", c.MidScale)
	case c.NullLabel && c.Classes == 0:
		return errors.New("null_label: an unconditional network has no null class; set classes")
	case c.ClassLabels && c.Classes == 0:
		return errors.New("class_labels: want the number of classes, got none")
	}
	return nil
}

func (c Config) validateTypes() error {
	n := len(c.Channels)
	if len(c.Down) != n || len(c.Up) != n {
		return fmt.Errorf("down, up, channels: want one entry for each level in all three, got %d, %d and %d", len(c.Down), len(c.Up), n)
	}
	for _, b := range c.Down {
		if _, ok := downs[b]; !ok {
			return fmt.Errorf("down: %s is not supported: want one of %s", quote.Text(b), known(downs))
		}
	}
	for _, b := range c.Up {
		if _, ok := ups[b]; !ok {
			return fmt.Errorf("up: %s is not supported: want one of %s", quote.Text(b), known(ups))
		}
	}
	switch {
	case c.DownType != Conv && c.DownType != Resnet:
		return fmt.Errorf("down_type: want %s or %s, got %s", Conv, Resnet, quote.Quoted(c.DownType))
	case c.UpType != Conv && c.UpType != Resnet:
		return fmt.Errorf("up_type: want %s or %s, got %s", Conv, Resnet, quote.Quoted(c.UpType))
	case c.Embedding != unet.Positional && c.Embedding != unet.Fourier:
		return fmt.Errorf("embedding: want %q or %q, got %s", unet.Positional, unet.Fourier, quote.Quoted(c.Embedding))
	case c.ClassLabels && c.Embedding != unet.Positional:
		return fmt.Errorf("class_labels: want the embedding %q, got %s", unet.Positional, quote.Text(c.Embedding))
	}
	// The image beside the features is halved and doubled by these blocks alone.
	for i, b := range c.Down[1:] {
		if downs[b].skip && i+1 < n-1 && !downs[c.Down[i]].skip {
			return fmt.Errorf("down: level %d has %s after %s: blocks with an input image have to come first", i+1, quote.Text(b), quote.Text(c.Down[i]))
		}
	}
	for i, b := range c.Up[1:] {
		if !ups[b].skip && ups[c.Up[i]].skip {
			return fmt.Errorf("up: level %d has %s after %s: blocks with an output image have to come last", i+1, quote.Text(b), quote.Text(c.Up[i]))
		}
	}
	if slices.ContainsFunc(c.Down, func(b Block) bool { return downs[b].skip }) && c.InChannels != 3 {
		return fmt.Errorf("in_channels: want 3 for blocks with an input image, got %d", c.InChannels)
	}
	if slices.ContainsFunc(c.Up, func(b Block) bool { return ups[b].skip }) && c.OutChannels != 3 {
		return fmt.Errorf("out_channels: want 3 for blocks with an output image, got %d", c.OutChannels)
	}
	return nil
}

// validateSizes rejects image sizes that levels cannot halve.
func (c Config) validateSizes() error {
	halves := 1 << (len(c.Channels) - 1)
	for _, side := range []int{c.Height, c.Width} {
		if side%halves != 0 {
			return fmt.Errorf("image size %d×%d: want a multiple of %d, which the %d levels halve to the smallest; use fewer levels or another size",
				c.Width, c.Height, halves, len(c.Channels))
		}
	}
	return nil
}

// validateNorms rejects norms and attention heads that do not divide their channels.
func (c Config) validateNorms() error {
	norm := func(groups, channels int) error {
		if groups < 1 || channels%groups != 0 {
			return fmt.Errorf("a group norm over %d channels (of a level, or of a level's input and its skip connection) cannot have %d groups; change norm_groups or channels",
				channels, groups)
		}
		return nil
	}
	p := c.plan()
	for _, st := range slices.Concat(p.down, []stage{{units: p.mid}}, p.up) {
		for _, u := range st.units {
			if err := norm(u.groupsIn, u.in); err != nil {
				return err
			}
			if err := norm(u.groupsOut, u.out); err != nil {
				return err
			}
			if !u.attends {
				continue
			}
			if c.HeadDim > 0 && u.out%c.HeadDim != 0 {
				return fmt.Errorf("head_dim: attention over %d channels needs a divisor of them, got %d", u.out, c.HeadDim)
			}
			if u.groupsAttention > 0 {
				if err := norm(u.groupsAttention, u.out); err != nil {
					return err
				}
			}
		}
		if st.resamples {
			if err := norm(st.groups, st.channels); err != nil {
				return err
			}
		}
	}
	return norm(c.groupsOut(), c.Channels[0])
}
