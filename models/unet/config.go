package unet

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/nn"
)

// Resample is the method of down- and upsampling between levels.
type Resample string

// The resampling methods.
const (
	// ResampleConv downsamples by a strided convolution and upsamples by nearest-neighbour interpolation and a convolution, as in
	// DDPM.
	ResampleConv Resample = "conv"
	// ResampleResidual resamples inside a residual block, before its first convolution and on its shortcut: by 2×2 average pooling
	// and nearest-neighbour interpolation, as in ADM and EDM, or by a filter, as in NCSN++ (see Config.Filter).
	ResampleResidual Resample = "residual"
)

// Embedding is the type of the noise label's embedding.
type Embedding string

// The embeddings of the noise label.
const (
	// Positional is sines and cosines at geometric frequencies from 1 to about 1/10000 (Vaswani et al. 2017).
	Positional Embedding = "positional"
	// Fourier is sines and cosines at fixed random frequencies, which checkpoints store as time_proj.weight. The label is
	// embedded directly. diffusers' UNet2DModel differs: it takes the noise level σ, embeds ln σ, and divides the output by σ.
	Fourier Embedding = "fourier"
)

// Config describes a U-Net of the DDPM++/NCSN++/ADM family. New fills in the defaults of zero fields: see WithDefaults.
type Config struct {
	Resolution  int   `json:"resolution"`             // height and width of the images, in pixels; 0: 32
	InChannels  int   `json:"in_channels"`            // 0: 3
	OutChannels int   `json:"out_channels,omitempty"` // 0: InChannels
	Channels    int   `json:"channels"`               // of the first level; 0: 64
	Mult        []int `json:"mult"`                   // channel multiplier of each level; nil: 1, 2, 2
	Blocks      int   `json:"blocks"`                 // residual blocks per level of the encoder; the decoder has one more; 0: 2
	Attention   []int `json:"attention,omitempty"`    // image sizes with self-attention; empty: in the middle block only

	HeadDim              int  `json:"head_dim,omitempty"`               // channels per attention head; 0: Heads heads
	Heads                int  `json:"heads,omitempty"`                  // attention heads of every level if HeadDim is 0; 0: one
	LastDecoderAttention bool `json:"last_decoder_attention,omitempty"` // in the decoder only the last block of a level has attention
	NoMidAttention       bool `json:"no_mid_attention,omitempty"`       // no attention in the middle block

	Resample     Resample `json:"resample,omitempty"`       // "": ResampleResidual
	ResampleSkip bool     `json:"resample_skip,omitempty"`  // resampling residual blocks have a 1×1 convolution on their shortcut
	PadAfter     bool     `json:"pad_after,omitempty"`      // strided convolutions are zero-padded on the right and at the bottom only, as in DDPM's code
	ScaleShift   bool     `json:"scale_shift,omitempty"`    // the embedding scales and shifts the second norm instead of being added before it
	SkipScale    float64  `json:"skip_scale,omitempty"`     // factor of every residual sum, such as √½; 0: 1
	MidSkipScale float64  `json:"mid_skip_scale,omitempty"` // the same in the middle block; 0: SkipScale

	// Filter is the resampling filter for both directions: an even number of symmetric taps, such as 1, 3, 3, 1. They are normalised
	// by their sum. nil: 1, 1
	Filter []float64 `json:"filter,omitempty"`
	// ResidualInput enables the residual input pyramid of NCSN++: the image, convolved and downsampled, is added to the features at the
	// second resolution, that sum in turn at the third, and so on, each sum times SkipScale.
	ResidualInput bool `json:"residual_input,omitempty"`

	NormGroups int     `json:"norm_groups,omitempty"` // groups of the group norms; 0: min(32, channels/4)
	NormEps    float64 `json:"norm_eps,omitempty"`    // 0: 1e-5

	Embedding Embedding `json:"embedding,omitempty"` // "": Positional
	// EmbeddingChannels is the number of sines and cosines of a positional embedding, and half of a Fourier embedding's; the embedding that
	// the blocks take is 4 times as wide. 0: Channels
	EmbeddingChannels int     `json:"embedding_channels,omitempty"`
	FourierScale      float64 `json:"fourier_scale,omitempty"`  // standard deviation of the random frequencies; 0: 16
	SinFirst          bool    `json:"sin_first,omitempty"`      // positional: sines before cosines
	EndpointFreqs     bool    `json:"endpoint_freqs,omitempty"` // positional: the last frequency is exactly 1/10000

	Classes   int  `json:"classes,omitempty"`    // number of classes; 0: unconditional
	NullLabel bool `json:"null_label,omitempty"` // there is a null class, which classifier-free guidance needs: see NullClass
	// LabelsFirst adds the class embedding to the sines and cosines of the noise label, before the MLP on them, as in EDM's version of DDPM++
	// and NCSN++. It is a linear layer on the one-hot class times √Classes; the null class is all zeros.
	LabelsFirst bool `json:"labels_first,omitempty"`
	// Augment is the number of augmentation labels of EDM's networks. The weights of their layer are kept in files; the labels are 0
	// outside of training with augmentation, so that the layer is not used.
	Augment  int     `json:"augment,omitempty"`
	Until    bool    `json:"until,omitempty"`    // the network takes the end of a jump: models.Cond.Until
	Guidance bool    `json:"guidance,omitempty"` // the network takes a guidance scale: models.Cond.Guidance
	Dropout  float64 `json:"dropout,omitempty"`  // dropout probability in every residual block, applied if models.Cond.Dropout is set
}

// WithDefaults returns the configuration with every zero field set to its default.
func (c Config) WithDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Resolution, 32)
	def(&c.InChannels, 3)
	def(&c.OutChannels, c.InChannels)
	def(&c.Channels, 64)
	def(&c.Blocks, 2)
	if c.Mult == nil {
		c.Mult = []int{1, 2, 2}
	}
	if c.Resample == "" {
		c.Resample = ResampleResidual
	}
	if c.SkipScale == 0 {
		c.SkipScale = 1
	}
	if c.MidSkipScale == 0 {
		c.MidSkipScale = c.SkipScale
	}
	if c.NormEps == 0 {
		c.NormEps = 1e-5
	}
	if c.Embedding == "" {
		c.Embedding = Positional
	}
	if c.FourierScale == 0 {
		c.FourierScale = 16
	}
	return c
}

// embeddingChannels returns EmbeddingChannels with its default, which is not filled in: it follows Channels.
func (c Config) embeddingChannels() int {
	if c.EmbeddingChannels == 0 {
		return c.Channels
	}
	return c.EmbeddingChannels
}

// embeddingWidth is the width of the embedding that the blocks take.
func (c Config) embeddingWidth() int { return 4 * c.embeddingChannels() }

// labelWidth is the number of sines and cosines of the noise label.
func (c Config) labelWidth() int {
	if c.Embedding == Fourier {
		return 2 * c.embeddingChannels()
	}
	return c.embeddingChannels()
}

// heads returns the number of attention heads at that many channels.
func (c Config) heads(channels int) int {
	if c.HeadDim > 0 {
		return channels / c.HeadDim
	}
	return max(1, c.Heads)
}

// maxWeights is the limit of Validate: 32 GiB in float32, several times the largest network of this family.
const maxWeights = 1 << 33

// Validate reports the first invalid field of a configuration with its defaults filled in. New can build every configuration that
// passes, memory permitting.
func (c Config) Validate() error {
	if err := c.validateNumbers(); err != nil {
		return err
	}
	sides := []int{c.Resolution}
	for i := range len(c.Mult) - 1 {
		side := sides[i]
		if side%2 != 0 {
			times := "once"
			if n := len(c.Mult) - 1; n > 1 {
				times = fmt.Sprint(n, " times")
			}
			return fmt.Errorf("unet: resolution %d cannot be halved %s: level %d is %d pixels wide; use fewer levels or another resolution",
				c.Resolution, times, i, side)
		}
		sides = append(sides, side/2)
	}
	for _, a := range c.Attention {
		if !slices.Contains(sides, a) {
			return fmt.Errorf("unet: attention: want image sizes of the levels, %s, got %d", list(sides), a)
		}
	}
	for i, m := range c.Mult {
		attends := c.attendsAt(sides[i]) || (i == len(c.Mult)-1 && !c.NoMidAttention)
		switch ch := c.Channels * m; {
		case attends && c.HeadDim > 0 && ch%c.HeadDim != 0:
			return fmt.Errorf("unet: head_dim: level %d has %d channels, want a multiple of head_dim, %d", i, ch, c.HeadDim)
		case attends && c.Heads > 0 && ch%c.Heads != 0:
			return fmt.Errorf("unet: heads: level %d has %d channels, want a multiple of heads, %d", i, ch, c.Heads)
		}
	}
	for _, ch := range c.normed() {
		if g := c.groups(ch); ch%g != 0 {
			return fmt.Errorf("unet: a group norm over %d channels (of a level, or of a level's input and its skip connection) cannot have %d groups; set norm_groups or change channels and mult",
				ch, g)
		}
	}
	if n := c.Count(); n > maxWeights {
		return fmt.Errorf("unet: the network would have %d weights, the limit is %d", n, maxWeights)
	}
	return nil
}

// validateNumbers checks each field on its own.
func (c Config) validateNumbers() error {
	within := func(what string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("unet: %s: want %d to %d, got %d", what, lo, hi, v)
		}
		return nil
	}
	for _, err := range []error{
		within("resolution", c.Resolution, 1, 4096),
		within("in_channels", c.InChannels, 1, 1024),
		within("out_channels", c.OutChannels, 1, 1024),
		within("channels", c.Channels, 2, 4096),
		within("levels (the length of mult)", len(c.Mult), 1, 10),
		within("blocks", c.Blocks, 1, 64),
		within("classes", c.Classes, 0, 1<<20),
		within("head_dim", c.HeadDim, 0, 4096),
		within("heads", c.Heads, 0, 4096),
		within("embedding_channels", c.EmbeddingChannels, 0, 4096),
		within("augment", c.Augment, 0, 4096),
		within("norm_groups", c.NormGroups, 0, 4096),
	} {
		if err != nil {
			return err
		}
	}
	for _, m := range c.Mult {
		if err := within("mult", m, 1, 64); err != nil {
			return err
		}
	}
	switch {
	case c.embeddingChannels()%2 != 0:
		return fmt.Errorf("unet: channels: want an even number, for sines and cosines, got %d", c.embeddingChannels())
	case (c.Embedding == Positional || c.Guidance) && c.EndpointFreqs && c.embeddingChannels() < 4:
		return fmt.Errorf("unet: endpoint_freqs: want at least 4 channels, got %d", c.embeddingChannels())
	case c.HeadDim > 0 && c.Heads > 0:
		return fmt.Errorf("unet: head_dim and heads: want one of them, got %d and %d", c.HeadDim, c.Heads)
	case c.LabelsFirst && c.Classes == 0:
		return errors.New("unet: labels_first: the network is unconditional; set classes")
	case c.Resample != ResampleConv && c.Resample != ResampleResidual:
		return fmt.Errorf("unet: resample: want %q or %q, got %s", ResampleConv, ResampleResidual, quote.Quoted(c.Resample))
	case c.Filter != nil && c.Resample != ResampleResidual && !c.ResidualInput:
		return fmt.Errorf("unet: filter: strided convolutions do not use it; want resample %q, got %s", ResampleResidual, quote.Quoted(c.Resample))
	case c.NullLabel && c.Classes == 0:
		return errors.New("unet: null_label: an unconditional network has no null class; set classes")
	case c.Embedding != Positional && c.Embedding != Fourier:
		return fmt.Errorf("unet: embedding: want %q or %q, got %s", Positional, Fourier, quote.Quoted(c.Embedding))
	case !(c.Dropout >= 0 && c.Dropout < 1):
		return fmt.Errorf("unet: dropout: want a probability in [0, 1), got %g", c.Dropout)
	case !(c.NormEps > 0 && c.NormEps < 1):
		return fmt.Errorf("unet: norm_eps: want a number in (0, 1), got %g", c.NormEps)
	case !(c.SkipScale > 0 && c.SkipScale <= 16) || !(c.MidSkipScale > 0 && c.MidSkipScale <= 16):
		return fmt.Errorf("unet: skip_scale and mid_skip_scale: want numbers in (0, 16], got %g and %g", c.SkipScale, c.MidSkipScale)
	case !(c.FourierScale > 0 && c.FourierScale < 1e6):
		return fmt.Errorf("unet: fourier_scale: want a positive number below 1e6, got %g", c.FourierScale)
	}
	return validateFilter(c.Filter)
}

// validateFilter rejects filters that do not halve and double sizes exactly, or that shift the image.
func validateFilter(taps []float64) error {
	if taps == nil {
		return nil
	}
	n, sum := len(taps), 0.0
	for i, v := range taps {
		if v != taps[n-1-i] {
			return fmt.Errorf("unet: filter: want symmetric taps, got %v", taps)
		}
		sum += v
	}
	switch {
	case n < 2 || n > 16 || n%2 != 0:
		return fmt.Errorf("unet: filter: want an even number of taps, 2 to 16, got %d", n)
	case !(math.Abs(sum) > 1e-6 && math.Abs(sum) < 1e6):
		return fmt.Errorf("unet: filter: want taps with a finite sum other than 0, got %v", taps)
	}
	return nil
}

// normed returns the numbers of channels that group norms have: those of the levels, and in the decoder those of a level's input
// concatenated with its skip connection.
func (c Config) normed() []int {
	ch := c.Channels
	all, skips := []int{ch}, []int{ch}
	for i, m := range c.Mult {
		ch = c.Channels * m
		all = append(all, ch)
		skips = append(skips, slices.Repeat([]int{ch}, c.Blocks)...)
		if i < len(c.Mult)-1 {
			skips = append(skips, ch)
		}
	}
	for _, m := range slices.Backward(c.Mult) {
		for range c.Blocks + 1 {
			last := len(skips) - 1
			all = append(all, ch+skips[last])
			skips = skips[:last]
			ch = c.Channels * m
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// NullClass returns the label of the null class, which replaces labels in training (label dropout) and is the unconditional input of
// classifier-free guidance: the number of classes, or -1 if the network has no null class.
func (c Config) NullClass() int {
	if c.NullLabel {
		return c.Classes
	}
	return -1
}

// labels returns the number of labels, with the null class.
func (c Config) labels() int {
	if c.NullLabel {
		return c.Classes + 1
	}
	return c.Classes
}

// Shapes returns the names and shapes of the network's tensors without allocating them.
func (c Config) Shapes() []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&UNet{config: c.WithDefaults()}).build(p) })
}

// Count returns the number of the network's weights without allocating them.
func (c Config) Count() int { return nn.Count(c.Shapes()) }

// list writes numbers as "32, 16 and 8".
func list(v []int) string {
	words := strings.Fields(strings.Trim(fmt.Sprint(v), "[]"))
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return words[0]
}

func (c Config) groups(channels int) int {
	if c.NormGroups > 0 {
		return c.NormGroups
	}
	return max(1, min(32, channels/4))
}

func (c Config) attendsAt(side int) bool { return slices.Contains(c.Attention, side) }
