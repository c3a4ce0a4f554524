package latents

import (
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/internal/weightsum"
)

// part is a network with its configuration.
type part struct {
	config any // in JSON
	network
}

// network is what the autoencoders and text encoders have in common.
type network interface {
	Store() *nn.Store
	Tensors() iter.Seq2[string, *torch.Tensor]
}

// sumOf returns the SHA-256 of networks' configurations and weights, in hexadecimal.
func sumOf(parts ...part) (string, error) {
	sum := weightsum.New(weightsum.Cached)
	for _, p := range parts {
		if p.Store().Merged() {
			return "", errors.New("adapters are merged into its weights, so that cached features with and without them could be confused: unmerge them")
		}
		text, err := json.Marshal(p.config)
		if err != nil {
			return "", err
		}
		sum.Config(fmt.Appendf(nil, "%T %s\n", p.config, text)) //quote: a sum is made of it
		if err := torch.Catch(func() {
			for name, t := range p.Tensors() {
				sum.Tensor(name, t)
			}
		}); err != nil {
			return "", err
		}
		p.Store().Release()
	}
	return sum.Hex(), nil
}

// imageEncoder makes what is stored of an image: the moments of a KL autoencoder, or the latents of a tiny one.
type imageEncoder struct {
	auto     vae.Autoencoder
	kl       *vae.KL // auto; nil: it is a tiny one, whose latents are not drawn
	config   vae.Config
	device   torch.Device
	dtype    torch.DType
	factor   int
	latents  int // channels
	channels int // of images
	tile     int
	sum      string
}

func newImageEncoder(m *sd.Model) (*imageEncoder, error) {
	e := &imageEncoder{auto: m.VAE}
	var config any
	switch a := m.VAE.(type) {
	case nil:
		return nil, fmt.Errorf("the model %s has no autoencoder: open it with its vae", quote.Quoted(m.Name()))
	case *vae.KL:
		e.kl, e.config, e.channels, e.tile = a, a.Config(), a.Config().InChannels, a.Tile
		config = e.config
	case *vae.Tiny:
		if !a.Encodes() {
			return nil, errors.New("the tiny autoencoder has only a decoder: images are encoded by its encoder, whose file is needed too")
		}
		e.channels, e.tile, config = a.Config().InChannels, a.Tile, a.Config()
	default:
		return nil, fmt.Errorf("want an autoencoder of package vae, got a %T", a)
	}
	n := m.VAE.(network)
	if n.Store().Closed() {
		return nil, fmt.Errorf("the autoencoder was closed (%w)", torch.ErrFreed)
	}
	e.device, e.dtype, e.factor, e.latents = n.Store().Device(), m.VAE.DType(), m.VAE.Factor(), m.VAE.Channels()
	if e.channels != 1 && e.channels != 3 {
		return nil, fmt.Errorf("the autoencoder takes images of %d channels: want 3 (colour), or 1 (grey)", e.channels)
	}
	if m.UNet != nil {
		if c := m.UNet.Config(); c.InChannels != e.latents {
			return nil, fmt.Errorf("the autoencoder has %d latent channels and the unet %d input channels: they are incompatible for training; "+
				"want an autoencoder for this unet, and no inpainting unet", e.latents, c.InChannels)
		}
	}
	var err error
	if e.sum, err = sumOf(part{config, n}); err != nil {
		return nil, fmt.Errorf("autoencoder: %w", err)
	}
	return e, nil
}

// closed reports whether the autoencoder was closed.
func (e *imageEncoder) closed() bool { return e.auto.(network).Store().Closed() }

// fits returns an error for an image size that the autoencoder does not take.
func (e *imageEncoder) fits(width, height int) error {
	if width < e.factor || height < e.factor || width%e.factor != 0 || height%e.factor != 0 {
		return fmt.Errorf("images of %d×%d pixels do not fit the autoencoder: want sides that are multiples of %d; choose the resolution or the bucket step accordingly",
			width, height, e.factor)
	}
	return nil
}

// key identifies the entry of an item.
func (e *imageEncoder) key(im *captioned.Image, it captioned.Item) key {
	return newKey(`{"image":"%x","scaled":[%d,%d],"crop":[%d,%d,%d,%d],"flip":%t,"autoencoder":"%s","dtype":"%s","tile":%d}`,
		im.Sum, it.Scaled.X, it.Scaled.Y, it.Crop.Min.X, it.Crop.Min.Y, it.Width, it.Height, it.Flip, e.sum, e.dtype, e.tile)
}

// The names of the arrays.
const (
	meanName        = "mean"
	logVarianceName = "log_variance"
	latentsName     = "latents"
	textName        = "text"
	pooledName      = "pooled"
)

// want is what an entry of an image of that size has.
func (e *imageEncoder) want(width, height int) entry {
	shape := []int{e.latents, height / e.factor, width / e.factor}
	if e.kl == nil {
		return entry{{name: latentsName, dtype: e.dtype, shape: shape}}
	}
	return entry{{name: meanName, dtype: e.dtype, shape: shape}, {name: logVarianceName, dtype: e.dtype, shape: shape}}
}

// encode returns the tensors of an entry for images of one size, [B, ...] each, in the order of want, on the autoencoder's device.
func (e *imageEncoder) encode(s *torch.Scope, images []image.Image) (all []*torch.Tensor, err error) {
	err = s.NoGrad(func(s *torch.Scope) error {
		x, err := vision.FromImages(s, e.channels, images...)
		if err != nil {
			return err
		}
		x = x.To(s, e.dtype)
		if e.kl != nil {
			mean, logVar := e.kl.Moments(s, x)
			all = []*torch.Tensor{s.Keep(mean), s.Keep(logVar)}
			return nil
		}
		all = []*torch.Tensor{s.Keep(e.auto.Encode(s, x, nil))}
		return nil
	})
	return all, err
}

// draw returns latents [B, C, h, w] in the U-Net's scale, in float32, from an entry's tensors. Those of a KL autoencoder are drawn from its
// moments, each with the seed of its sample.
func (e *imageEncoder) draw(s *torch.Scope, of []*torch.Tensor, seeds []uint64) *torch.Tensor {
	return s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		of := slices.Clone(of)
		for i := range of {
			of[i] = of[i].To(s, torch.Float32)
		}
		if e.kl == nil {
			return of[0]
		}
		streams := make([]*torch.Generator, len(seeds))
		for i, seed := range seeds {
			streams[i] = torch.NewGeneratorOn(s, torch.CPU, seed)
		}
		return e.config.Latents(s, of[0], of[1], streams)
	})
}

// arrays returns a row of tensors [B, ...] as an entry with the wanted names. A value that is NaN or infinite is an error.
func arrays(s *torch.Scope, want entry, of []*torch.Tensor, row int) (got entry, err error) {
	err = s.NoGrad(func(s *torch.Scope) error {
		for i, w := range want {
			t := of[i].Narrow(s, 0, row, 1)
			if n := torch.CountNonFinite(s, []*torch.Tensor{t}); n > 0 {
				return fmt.Errorf("%d of %d values of its %s are NaN or infinite: %w", n, t.NumEl(), w.name, errNotFinite)
			}
			got = append(got, array{w.name, w.dtype, w.shape, t.Bytes()})
		}
		return nil
	})
	return got, err
}

// errNotFinite says what NaN and infinite features come from.
var errNotFinite = errors.New("the encoder's weights are broken, or overflow in half precision")
