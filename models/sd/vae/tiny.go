package vae

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// TinyConfig describes a tiny autoencoder. Its zero value is TAESD. Its JSON is the config.json of diffusers' AutoencoderTiny.
type TinyConfig struct {
	InChannels     int   `json:"in_channels"`                // of images; 0: 3
	OutChannels    int   `json:"out_channels"`               // 0: 3
	LatentChannels int   `json:"latent_channels"`            // 0: 4
	EncoderWidths  []int `json:"encoder_block_out_channels"` // per level, from the highest resolution; nil: 64 four times
	DecoderWidths  []int `json:"decoder_block_out_channels"` // per level, from the lowest resolution; nil: 64 four times
	EncoderBlocks  []int `json:"num_encoder_blocks"`         // nil: 1, 3, 3, 3
	DecoderBlocks  []int `json:"num_decoder_blocks"`         // nil: 3, 3, 3, 1

	ScalingFactor float64 `json:"scaling_factor"` // latents are multiplied by it; 0: 1

	// Pool adds to the blocks at the lowest resolution a branch with a group norm over the whole image (TAEF2). diffusers has no such class:
	// the config.json's is [PoolClass].
	Pool bool `json:"pool,omitempty"`
}

// TAESD is the tiny autoencoder for the latents of Stable Diffusion 1 and 2 and, with other weights, of SDXL.
func TAESD() TinyConfig { return TinyConfig{}.WithDefaults() }

// TAEF2 is the tiny autoencoder for the latents of FLUX.2.
func TAEF2() TinyConfig { return TinyConfig{LatentChannels: 32, Pool: true}.WithDefaults() }

// WithDefaults returns the configuration with every zero field filled in.
func (c TinyConfig) WithDefaults() TinyConfig {
	c.InChannels, c.OutChannels, c.LatentChannels = or(c.InChannels, 3), or(c.OutChannels, 3), or(c.LatentChannels, 4)
	c.ScalingFactor = or(c.ScalingFactor, 1)
	fill := func(list *[]int, with ...int) {
		if *list == nil {
			*list = with
		}
	}
	fill(&c.EncoderWidths, 64, 64, 64, 64)
	fill(&c.DecoderWidths, 64, 64, 64, 64)
	fill(&c.EncoderBlocks, 1, 3, 3, 3)
	fill(&c.DecoderBlocks, 3, 3, 3, 1)
	return c
}

// Validate returns an error for a configuration that NewTiny could not build. Fill in the defaults first.
func (c TinyConfig) Validate() error {
	if err := errors.Join(
		within("in_channels", c.InChannels, 1, 64), within("out_channels", c.OutChannels, 1, 64),
		within("latent_channels", c.LatentChannels, 1, 256), scale(c.ScalingFactor),
		levels("encoder", c.EncoderWidths, c.EncoderBlocks), levels("decoder", c.DecoderWidths, c.DecoderBlocks),
	); err != nil {
		return fmt.Errorf("tiny vae config: %w", err)
	}
	if e, d := len(c.EncoderWidths), len(c.DecoderWidths); e != d {
		return fmt.Errorf("tiny vae config: the encoder has %d levels and the decoder %d: want the same number", e, d)
	}
	return bounded("tiny vae config", TinyShapes(c))
}

// levels checks the levels of encoder or decoder. All have the same width: diffusers' class has no layer to change it.
func levels(half string, widths, blocks []int) error {
	if err := within("the length of "+half+"_block_out_channels", len(widths), 1, maxLevels); err != nil {
		return err
	}
	if len(blocks) != len(widths) {
		return fmt.Errorf("num_%s_blocks has %d numbers: want one for each of %d levels", half, len(blocks), len(widths))
	}
	for i := range widths {
		if widths[i] != widths[0] {
			return fmt.Errorf("%s_block_out_channels is %v: want the same number in all levels", half, widths)
		}
		if err := errors.Join(
			within("a number of "+half+"_block_out_channels", widths[i], 1, 1024),
			within("a number of num_"+half+"_blocks", blocks[i], 0, maxLayers),
		); err != nil {
			return err
		}
	}
	return nil
}

// TinyClass is the class of tiny autoencoders in diffusers, as config.json has it.
const TinyClass = "AutoencoderTiny"

// PoolClass is the class in the config.json of a tiny autoencoder with TinyConfig.Pool. In diffusers, which ignores weights that a class does
// not have, the name [TinyClass] would give wrong images.
const PoolClass = "AutoencoderTinyPool"

// ParseTinyConfig reads the config.json of diffusers' AutoencoderTiny, or of a [PoolClass]. Missing keys have its defaults, which are TAESD's. Keys that do not
// affect the computation are ignored, among them latent_magnitude and latent_shift, which are for storing latents as bytes; unsupported
// values are errors.
func ParseTinyConfig(data []byte) (TinyConfig, error) {
	c := TAESD()
	if err := c.parse(data); err != nil {
		return TinyConfig{}, fmt.Errorf("tiny vae config: %w", err)
	}
	return c, c.Validate()
}

func (c *TinyConfig) parse(data []byte) error {
	k, err := open(data, TinyClass, PoolClass)
	if err != nil {
		return err
	}
	c.Pool = string(k["_class_name"]) == `"`+PoolClass+`"`
	return errors.Join(
		k.read("in_channels", &c.InChannels), k.read("out_channels", &c.OutChannels), k.read("latent_channels", &c.LatentChannels),
		k.read("encoder_block_out_channels", &c.EncoderWidths), k.read("decoder_block_out_channels", &c.DecoderWidths),
		k.read("num_encoder_blocks", &c.EncoderBlocks), k.read("num_decoder_blocks", &c.DecoderBlocks),
		k.read("scaling_factor", &c.ScalingFactor), k.read("pool", &c.Pool),
		k.only("act_fn", `"relu"`), k.only("upsample_fn", `"nearest"`), k.only("upsampling_scaling_factor", "2"),
		k.only("shift_factor", "0", "0.0", "null"),
	)
}

// MarshalJSON writes the config.json of diffusers, defaults included.
func (c TinyConfig) MarshalJSON() ([]byte, error) {
	type plain TinyConfig
	class := TinyClass
	if c.Pool {
		class = PoolClass
	}
	return json.Marshal(struct {
		Class string `json:"_class_name"`
		plain
	}{class, plain(c.WithDefaults())})
}

// Tiny is a small convolutional autoencoder (TAESD, TAEF2). It owns its weights, which have diffusers' names.
type Tiny struct {
	config           TinyConfig
	store            *nn.Store
	encoder, decoder []step
	lone             bool  // without an encoder
	files            files // closed after the store

	// Tile is the tile size in pixels: larger images are encoded and decoded in overlapping square tiles that are blended, which takes less
	// memory and changes the result slightly. 0: no tiling. It is rounded down to a multiple of 8·Factor, at least 16·Factor. diffusers'
	// tiles have 512. Set it before use.
	Tile int
}

// NewTiny makes an autoencoder with random weights drawn from seed, by PyTorch's rules.
func NewTiny(c TinyConfig, dev torch.Device, dtype torch.DType, seed uint64) (*Tiny, error) {
	return newTiny(c, false, func(build func(p nn.Path)) (*nn.Store, error) { return nn.Build(dev, dtype, seed, build) })
}

// TinyFrom makes an autoencoder from the weights in src, frozen; see [nn.BuildFrom].
func TinyFrom(c TinyConfig, src nn.Source, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	return newTiny(c, false, func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
}

// TinyDecoderFrom makes an autoencoder that has only a decoder, from the weights in src, frozen. It cannot encode.
func TinyDecoderFrom(c TinyConfig, src nn.Source, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	return newTiny(c, true, func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
}

func newTiny(c TinyConfig, lone bool, fill func(build func(p nn.Path)) (*nn.Store, error)) (*Tiny, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	t := &Tiny{config: c, lone: lone}
	var err error
	if t.store, err = fill(t.build); err != nil {
		return nil, fmt.Errorf("tiny vae: %w", err)
	}
	return t, nil
}

// TinyShapes returns the names and shapes of an autoencoder's tensors without creating them.
func TinyShapes(c TinyConfig) []nn.Shape { return nn.Shapes((&Tiny{config: c.WithDefaults()}).build) }

// step is one layer; it may change h in place, and frees h unless it returns it.
type step func(s *torch.Scope, h *torch.Tensor) *torch.Tensor

func (t *Tiny) build(p nn.Path) {
	c := t.config
	var chain []step
	var layers nn.Path
	next := func() nn.Path { return layers.Sub(len(chain)) }
	convolution := func(in, out, stride int, bias bool) {
		rule := nn.FanIn(9 * in)
		l := nn.NewConv2DInit(next(), in, out, 3, torch.Conv2DOptions{Padding: 1, Stride: stride}, rule, when(bias, rule))
		chain = append(chain, func(s *torch.Scope, h *torch.Tensor) *torch.Tensor { return blocks.Release(l.Forward(s, h), h) })
	}
	stage := func(width, n int, pool bool) {
		for range n {
			b := newTinyBlock(next(), width, pool)
			chain = append(chain, b.forward)
		}
	}
	last := len(c.EncoderWidths) - 1

	if !t.lone {
		layers = p.Sub("encoder", "layers")
		for i, width := range c.EncoderWidths {
			if i == 0 {
				convolution(c.InChannels, width, 1, true)
			} else {
				convolution(width, width, 2, false)
			}
			stage(width, c.EncoderBlocks[i], c.Pool && i == last)
		}
		convolution(c.EncoderWidths[last], c.LatentChannels, 1, true)
		t.encoder, chain = chain, nil
	}

	layers = p.Sub("decoder", "layers")
	convolution(c.LatentChannels, c.DecoderWidths[0], 1, true)
	chain = append(chain, relu)
	for i, width := range c.DecoderWidths {
		stage(width, c.DecoderBlocks[i], c.Pool && i == 0)
		if i < last {
			chain = append(chain, func(s *torch.Scope, h *torch.Tensor) *torch.Tensor { return blocks.Release(h.UpsampleNearest(s, 2), h) })
			convolution(width, width, 1, false)
		} else {
			convolution(width, c.OutChannels, 1, true)
		}
	}
	t.decoder = chain
}

func when(yes bool, rule nn.Init) nn.Init {
	if yes {
		return rule
	}
	return nil
}

func relu(s *torch.Scope, h *torch.Tensor) *torch.Tensor { return blocks.Release(h.ReLU(s), h) }

// tinyBlock is relu(h + conv(relu(conv(relu(conv(h)))))).
type tinyBlock struct {
	convs [3]nn.Conv2D
	pool  *tinyPool // nil: none
}

// tinyPool is h + narrow(relu(norm(widen(h)))), applied before a block.
type tinyPool struct {
	widen, narrow nn.Conv2D
	norm          nn.GroupNorm
}

func newTinyBlock(p nn.Path, width int, pool bool) *tinyBlock {
	b := &tinyBlock{}
	for i := range b.convs {
		b.convs[i] = blocks.NewConv(p.Sub("conv", 2*i), width, width, 3)
	}
	if pool {
		wide := 4 * width
		one := func(name int, in, out int) nn.Conv2D {
			return nn.NewConv2DInit(p.Sub("pool", name), in, out, 1, torch.Conv2DOptions{}, nn.FanIn(in), nil)
		}
		b.pool = &tinyPool{widen: one(0, width, wide), norm: nn.NewGroupNorm(p.Sub("pool", 1), 4, wide, 1e-5), narrow: one(3, wide, width)}
	}
	return b
}

func (b *tinyBlock) forward(s *torch.Scope, h *torch.Tensor) *torch.Tensor {
	return blocks.Release(s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := h
		if b.pool != nil {
			x = x.Add(s, b.pool.narrow.Forward(s, b.pool.norm.Forward(s, b.pool.widen.Forward(s, x)).ReLU(s)))
		}
		y := relu(s, b.convs[0].Forward(s, x))
		y = relu(s, blocks.Release(b.convs[1].Forward(s, y), y))
		y = blocks.Release(b.convs[2].Forward(s, y), y)
		y.AddInPlace(s, x) // no operator saved the convolution's result
		return relu(s, y)
	}), h)
}

// Config returns the configuration with its defaults filled in.
func (t *Tiny) Config() TinyConfig { return t.config }

// Store returns the store that owns the weights.
func (t *Tiny) Store() *nn.Store { return t.store }

// Parameters yields the weights by diffusers' names.
func (t *Tiny) Parameters() iter.Seq2[string, *torch.Tensor] { return t.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights.
func (t *Tiny) Tensors() iter.Seq2[string, *torch.Tensor] { return t.store.Tensors() }

// Close frees the weights.
func (t *Tiny) Close() {
	t.store.Close()
	_ = t.files.Close() // nothing views them any more
}

// Factor implements Autoencoder.
func (t *Tiny) Factor() int { return 1 << (len(t.config.EncoderWidths) - 1) }

// Channels implements Autoencoder.
func (t *Tiny) Channels() int { return t.config.LatentChannels }

// DType implements Autoencoder.
func (t *Tiny) DType() torch.DType { return t.store.DType() }

// Encodes reports whether it has an encoder.
func (t *Tiny) Encodes() bool { return !t.lone }

// Encode implements Autoencoder. It is deterministic. ScalingFactor is 1 in all published models: their latents already have the U-Net's
// scale.
func (t *Tiny) Encode(s *torch.Scope, images *torch.Tensor, _ []*torch.Generator) *torch.Tensor {
	if t.lone {
		panic(&torch.Error{Op: "vae", Msg: "the autoencoder has only a decoder: to encode images, the encoder's file is needed too"})
	}
	check(t.store, images, t.config.InChannels, t.Factor(), "images")
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := images.AddScalar(s, 1).DivScalar(s, 2)
		tile := t.tile()
		h = pasted(s, h, tile, tile/t.Factor(), chain(t.encoder))
		return h.MulScalar(s, t.config.ScalingFactor)
	})
}

// Decode implements Autoencoder. It first clamps latents softly to ±3, as 3·tanh(z/3).
func (t *Tiny) Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor {
	check(t.store, latents, t.config.LatentChannels, 1, "latents")
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := latents.DivScalar(s, t.config.ScalingFactor)
		h = blocks.Release(h.DivScalar(s, 3).Tanh(s).MulScalar(s, 3), h)
		tile := t.tile()
		h = pasted(s, h, tile/t.Factor(), tile, chain(t.decoder))
		return h.MulScalar(s, 2).SubScalar(s, 1)
	})
}

// chain runs one layer after the other. It frees its input.
func chain(layers []step) code {
	return func(s *torch.Scope, h *torch.Tensor) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			for _, f := range layers {
				h = f(s, h)
			}
			return h
		})
	}
}
