package sd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// NewConfig describes a new model for [New]: a U-Net and a text encoder with random weights, and an autoencoder from files.
type NewConfig struct {
	// UNet is the network. The autoencoder's latent channels are the default of InChannels and OutChannels, and the text encoder's width that
	// of CrossAttentionDim. The zero value is Stable Diffusion 1's network; package unet has presets of small ones.
	UNet unet.Config
	// Resolution is the side of the images in training, in pixels, for the network's SampleSize. 0: as UNet says.
	Resolution int
	// Text is the text encoder. The tokenizer's vocabulary, end token and maximum length are the defaults of Vocab, EOS and Positions. Package
	// clip has presets of small ones.
	Text clip.Config
	// Tokenizer is nil for CLIP's. A small model needs a small vocabulary: see [prompt.Tokenizer.First].
	Tokenizer *prompt.Tokenizer

	// Autoencoder is the path of a KL autoencoder (directory or file), a tiny autoencoder (see [OpenTiny]), or a model of which only the
	// autoencoder is taken.
	Autoencoder string
	// ScalingFactor is the factor of latents, which should give them a standard deviation of 1: see [vae.MeasureScaling]. 0: the autoencoder's
	// own, which is right for the data that it was published with.
	ScalingFactor float64

	// Predict is what the network learns to predict. ZeroSNR: the last timestep is pure noise (Lin et al. 2024), so that images may be darker
	// or brighter on the whole than medium grey, as those on a white background are; it needs noise.Velocity or noise.Sample. The noise
	// schedule is Stable Diffusion's.
	Predict noise.Prediction
	ZeroSNR bool

	Device torch.Device
	Seed   uint64 // of the random weights
	Tile   int    // see [Options]
}

// resolved returns the configurations with their defaults filled in for an autoencoder with the given latent channels.
func (c NewConfig) resolved(latents int) (unet.Config, clip.Config, *prompt.Tokenizer, error) {
	tokens := c.Tokenizer
	if tokens == nil {
		tokens = prompt.Default()
	}
	net, text := c.UNet, c.Text
	fill := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	fill(&text.Vocab, tokens.Vocab())
	fill(&text.Positions, tokens.Max())
	fill(&text.EOS, tokens.EOS())
	text = text.WithDefaults()
	fill(&net.InChannels, latents)
	fill(&net.OutChannels, latents)
	if len(net.CrossAttentionDim) == 0 {
		net.CrossAttentionDim = unet.Ints{text.Width}
	}
	net = net.WithDefaults()
	switch {
	case text.Vocab < tokens.Vocab():
		return net, text, nil, fmt.Errorf("the text encoder has a vocabulary of %d tokens and the tokenizer of %d", text.Vocab, tokens.Vocab())
	case text.Positions < tokens.Max():
		return net, text, nil, fmt.Errorf("the text encoder has %d positions and the tokenizer's maximum length is %d", text.Positions, tokens.Max())
	case net.CrossAttentionDim[0] != text.Width:
		return net, text, nil, fmt.Errorf("the unet takes text features of width %d, the text encoder's have %d", net.CrossAttentionDim[0], text.Width)
	case net.InChannels != latents || net.OutChannels != latents:
		return net, text, nil, fmt.Errorf("the unet has %d input and %d output channels, the autoencoder has %d latent channels: want the same number",
			net.InChannels, net.OutChannels, latents)
	case net.AdditionEmbedType != "":
		return net, text, nil, errors.New("a unet with pooled text and sizes (SDXL) is not supported for a new model")
	}
	return net, text, tokens, errors.Join(net.Validate(), text.Validate())
}

// scheduler returns the scheduler_config.json: DDIM, with trailing timesteps where the last one is pure noise, since a sampler has to start
// there.
func (c NewConfig) scheduler() ([]byte, error) {
	if err := c.Predict.Validate("new model"); err != nil {
		return nil, err
	}
	if c.ZeroSNR && c.Predict == noise.Epsilon {
		return nil, errors.New("with zero terminal SNR the network has to predict v or the sample: from pure noise, ε says nothing of the image")
	}
	n := noise.Config{Class: "DDIMScheduler", Predicts: c.Predict, ZeroSNR: c.ZeroSNR, Clip: new(false), AlphaToOne: new(false), Spacing: "leading", StepsOffset: 1}
	if c.ZeroSNR {
		n.Spacing, n.StepsOffset = "trailing", 0
	}
	return json.MarshalIndent(n.WithBetas(noise.ClassBetas("LCMScheduler")), "", "  ") // Stable Diffusion's betas
}

// New makes a model with a U-Net and a text encoder of random weights in float32, which are to be trained (see [Model.Parameters]), and an
// autoencoder from files, frozen. [Model.Write] writes it as a diffusers directory.
func New(c NewConfig) (_ *Model, err error) {
	fail := func(err error) error { return fmt.Errorf("new model: %w", err) }
	m := &Model{Path: "new model"}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.Scheduler, err = c.scheduler(); err != nil {
		return nil, fail(err)
	}
	if m.VAE, err = m.autoencoder(c); err != nil {
		return nil, fail(err)
	}
	if c.ScalingFactor != 0 {
		if err := vae.Rescale(m.VAE, c.ScalingFactor); err != nil {
			return nil, fail(err)
		}
	}
	if c.Resolution > 0 {
		c.UNet.SampleSize = unet.Ints{c.Resolution / m.VAE.Factor()}
	}
	net, text, tokens, err := c.resolved(m.VAE.Channels())
	if err != nil {
		return nil, fail(err)
	}
	if m.UNet, err = unet.New(net, c.Device, torch.Float32, c.Seed); err != nil {
		return nil, fail(err)
	}
	encoder, err := clip.New(text, c.Device, torch.Float32, c.Seed+1)
	if err != nil {
		return nil, fail(err)
	}
	m.Texts = []TextEncoder{{tokens, encoder}}
	config, err := json.Marshal(net)
	if err != nil {
		return nil, fail(err)
	}
	m.Kind = weights.KindOf(config)
	return m, nil
}

// autoencoder opens the autoencoder, in float32.
func (m *Model) autoencoder(c NewConfig) (vae.Autoencoder, error) {
	path := c.Autoencoder
	if path == "" {
		return nil, errors.New("want an autoencoder: the path of a directory or a file")
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	part := weights.PartAt(path)
	_, noIndex := os.Stat(filepath.Join(path, "model_index.json"))
	var own *weights.Component
	switch {
	case part.Name == "tiny_vae":
		path = part.Path
		fallthrough
	case part.Name == "" && st.IsDir() && noIndex != nil: // encoder and decoder of a tiny autoencoder, or nothing
		t, err := OpenTiny(path, c.Device, torch.Float32)
		if err != nil {
			return nil, err
		}
		t.Tile = c.Tile
		return t, nil
	case part.Name == "vae":
		if own, err = weights.OpenComponent(part.Path, weights.Options{}); err != nil {
			return nil, err
		}
		m.closers = append(m.closers, own.Close)
	case part.Name != "":
		return nil, fmt.Errorf("%s: want an autoencoder, it is a %s", quote.Path(path), part.Name)
	default:
		files, err := weights.Open(path, weights.Options{})
		if err != nil {
			return nil, err
		}
		m.closers = append(m.closers, files.Close)
		if own = files.VAE; own == nil {
			return nil, fmt.Errorf("%s: want an autoencoder, but it is a %s without one", quote.Path(path), files.Kind)
		}
	}
	spec, err := vae.ParseSpec(own.Config)
	if err == nil {
		err = nnFits(own, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: vae: %w", quote.Path(path), err)
	}
	return spec.From(own, c.Device, torch.Float32, c.Tile)
}
