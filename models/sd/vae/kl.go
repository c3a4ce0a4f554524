package vae

import (
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// KL is a variational autoencoder (Rombach et al. 2022, appendix G): the encoder predicts the mean and variance of each latent. It owns its
// weights, which have diffusers' names. Several goroutines may use it at once.
type KL struct {
	config Config
	store  *nn.Store

	encoder, decoder coder
	quant, postQuant *nn.Conv2D // nil: none

	// Tile is the tile size in pixels: larger images are encoded and decoded in overlapping square tiles that are blended, which takes less
	// memory and changes the result slightly. 0: no tiling. It is rounded down to a multiple of 4·Factor, so that tiles are aligned to
	// whole latents. diffusers tiles at the configuration's SampleSize. Set it before use.
	Tile int

	// Slice encodes and decodes the images of a batch one by one, which takes less memory. Set it before use.
	Slice bool
}

// New makes an autoencoder with random weights drawn from seed, by PyTorch's rules.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*KL, error) {
	return newKL(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.Build(dev, dtype, seed, build) })
}

// From makes an autoencoder from the weights in src, frozen; see [nn.BuildFrom].
func From(c Config, src nn.Source, dev torch.Device, dtype torch.DType) (*KL, error) {
	return newKL(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
}

func newKL(c Config, fill func(build func(p nn.Path)) (*nn.Store, error)) (*KL, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	k := &KL{config: c}
	var err error
	if k.store, err = fill(k.build); err != nil {
		return nil, fmt.Errorf("vae: %w", err)
	}
	return k, nil
}

// Shapes returns the names and shapes of an autoencoder's tensors without creating them.
func Shapes(c Config) []nn.Shape { return nn.Shapes((&KL{config: c.WithDefaults()}).build) }

func (k *KL) build(p nn.Path) {
	c := k.config
	n := len(c.Channels)
	e, d := p.Sub("encoder"), p.Sub("decoder")
	top, deep := c.Channels[0], c.Channels[n-1]

	k.encoder.in = blocks.NewConv(e.Sub("conv_in"), c.InChannels, top, 3)
	ch := top
	for i, out := range c.Channels {
		l := newLevel(e.Sub("down_blocks", i), c, ch, out, c.Layers)
		if i < n-1 {
			l.down = blocks.NewDownsample(e.Sub("down_blocks", i, "downsamplers", 0), out, true)
		}
		k.encoder.levels = append(k.encoder.levels, l)
		ch = out
	}
	k.encoder.middle = newMiddle(e.Sub("mid_block"), c, deep)
	k.encoder.norm = nn.NewGroupNorm(e.Sub("conv_norm_out"), c.Groups, deep, normEps)
	k.encoder.out = blocks.NewConv(e.Sub("conv_out"), deep, 2*c.LatentChannels, 3)

	k.decoder.in = blocks.NewConv(d.Sub("conv_in"), c.LatentChannels, deep, 3)
	ch = deep
	for i := range n {
		out := c.Channels[n-1-i]
		l := newLevel(d.Sub("up_blocks", i), c, ch, out, c.Layers+1)
		if i < n-1 {
			l.up = blocks.NewUpsample(d.Sub("up_blocks", i, "upsamplers", 0), out)
		}
		k.decoder.levels = append(k.decoder.levels, l)
		ch = out
	}
	k.decoder.middle = newMiddle(d.Sub("mid_block"), c, deep)
	k.decoder.norm = nn.NewGroupNorm(d.Sub("conv_norm_out"), c.Groups, top, normEps)
	k.decoder.out = blocks.NewConv(d.Sub("conv_out"), top, c.OutChannels, 3)

	if *c.QuantConv {
		k.quant = new(blocks.NewConv(p.Sub("quant_conv"), 2*c.LatentChannels, 2*c.LatentChannels, 1))
	}
	if *c.PostQuantConv {
		k.postQuant = new(blocks.NewConv(p.Sub("post_quant_conv"), c.LatentChannels, c.LatentChannels, 1))
	}
}

// Config returns the configuration with its defaults filled in.
func (k *KL) Config() Config { return k.config }

// Store returns the store that owns the weights.
func (k *KL) Store() *nn.Store { return k.store }

// Parameters yields the weights by diffusers' names.
func (k *KL) Parameters() iter.Seq2[string, *torch.Tensor] { return k.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights.
func (k *KL) Tensors() iter.Seq2[string, *torch.Tensor] { return k.store.Tensors() }

// Close frees the weights.
func (k *KL) Close() { k.store.Close() }

// Factor implements Autoencoder.
func (k *KL) Factor() int { return 1 << (len(k.config.Channels) - 1) }

// Channels implements Autoencoder.
func (k *KL) Channels() int { return k.config.LatentChannels }

// DType implements Autoencoder.
func (k *KL) DType() torch.DType { return k.store.DType() }

// Encode implements Autoencoder: it samples z from the distribution that Moments returns, and returns (z - ShiftFactor)·ScalingFactor.
// Noise is drawn in the latents' data type, [1, …] from the stream of each image or [n, …] from a single one. As in PyTorch, float16 and
// bfloat16 noise is float32 noise, rounded, and float64 noise is different. For one image, several streams give as many latents.
func (k *KL) Encode(s *torch.Scope, images *torch.Tensor, streams []*torch.Generator) *torch.Tensor {
	check(k.store, images, k.config.InChannels, k.Factor(), "images")
	if n := images.Dim(0); len(streams) > 1 && n > 1 && len(streams) != n {
		panic(&torch.Error{Op: "vae", Msg: fmt.Sprintf("%d images and %d random streams: want one stream for each image, or a single one", n, len(streams))})
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		mean, logVar := k.Moments(s, images)
		return k.config.Latents(s, mean, logVar, streams)
	})
}

// Latents returns latents in the U-Net's scale, drawn from the distribution that [KL.Moments] returns, as [KL.Encode] does: stored moments
// give the same latents without the autoencoder. Without streams it returns the scaled mean.
func (c Config) Latents(s *torch.Scope, mean, logVar *torch.Tensor, streams []*torch.Generator) *torch.Tensor {
	c = c.WithDefaults()
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		z := mean
		if len(streams) > 0 {
			shape := z.Shape()
			if len(streams) > 1 {
				shape[0] = 1
			}
			var each []*torch.Tensor
			for _, g := range streams {
				each = append(each, torch.Randn(s, g, z.DType(), shape...))
			}
			noise := torch.Cat(s, each, 0)
			z = z.Add(s, logVar.MulScalar(s, 0.5).Exp(s).Mul(s, noise))
		}
		if shift := c.ShiftFactor; shift != nil {
			z = z.SubScalar(s, *shift)
		}
		return z.MulScalar(s, c.ScalingFactor)
	})
}

// Moments returns the mean and log variance of each latent, unscaled.
func (k *KL) Moments(s *torch.Scope, images *torch.Tensor) (mean, logVar *torch.Tensor) {
	check(k.store, images, k.config.InChannels, k.Factor(), "images")
	tile := k.tile()
	both := k.sliced(s, images, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		return tiled(s, x, tile, tile/k.Factor(), k.encode)
	})
	mean = both.Narrow(s, 1, 0, k.config.LatentChannels)
	logVar = both.Narrow(s, 1, k.config.LatentChannels, k.config.LatentChannels).Clamp(s, -30, 20)
	both.Free()
	return mean, logVar
}

// encode returns the moments of images or tiles.
func (k *KL) encode(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e := &k.encoder
		h := e.in.Forward(s, x)
		for _, l := range e.levels {
			h = l.forward(s, h)
		}
		h = blocks.Release(e.middle.forward(s, h), h)
		h = e.last(s, h)
		if k.quant != nil {
			h = blocks.Release(k.quant.Forward(s, h), h)
		}
		return h
	})
}

// Decode implements Autoencoder.
func (k *KL) Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor {
	check(k.store, latents, k.config.LatentChannels, 1, "latents")
	tile := k.tile()
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		z := latents.DivScalar(s, k.config.ScalingFactor)
		if shift := k.config.ShiftFactor; shift != nil {
			z = blocks.Release(z.AddScalar(s, *shift), z)
		}
		return k.sliced(s, z, func(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
			return tiled(s, z, tile/k.Factor(), tile, k.decode)
		})
	})
}

// decode returns the images or tiles of unscaled latents.
func (k *KL) decode(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		d := &k.decoder
		h := z
		if k.postQuant != nil {
			h = k.postQuant.Forward(s, z)
		}
		h = d.in.Forward(s, h)
		h = blocks.Release(d.middle.forward(s, h), h)
		for _, l := range d.levels {
			h = l.forward(s, h)
		}
		return d.last(s, h)
	})
}

// check panics for invalid inputs; height and width must be multiples of factor.
func check(st *nn.Store, x *torch.Tensor, channels, factor int, what string) {
	st.Takes("vae", "the "+what, x)
	shape := x.Shape()
	if len(shape) != 4 || shape[1] != channels || shape[2]%factor != 0 || shape[3]%factor != 0 || x.NumEl() == 0 {
		by := ""
		if factor > 1 {
			by = fmt.Sprintf(" with height and width divisible by %d", factor)
		}
		panic(&torch.Error{Op: "vae", Msg: fmt.Sprintf("want %s [n, %d, H, W]%s, got %v", what, channels, by, shape)})
	}
}

const normEps = 1e-6

// coder is one half of the autoencoder.
type coder struct {
	in     nn.Conv2D
	levels []level
	middle middle
	norm   nn.GroupNorm
	out    nn.Conv2D
}

// last frees h.
func (c *coder) last(s *torch.Scope, h *torch.Tensor) *torch.Tensor {
	h = blocks.Release(c.norm.SiLU(s, h), h)
	return blocks.Release(c.out.Forward(s, h), h)
}

// level is the blocks at one resolution and the resampling after them.
type level struct {
	blocks []*blocks.Residual
	down   *blocks.Downsample // nil: none
	up     *blocks.Upsample   // nil: none
}

func newLevel(p nn.Path, c Config, in, out, blocks int) level {
	var l level
	for j := range blocks {
		l.blocks = append(l.blocks, newResidual(p.Sub("resnets", j), c, in, out))
		in = out
	}
	return l
}

// forward frees h: at the largest image it is a third of all memory.
func (l level) forward(s *torch.Scope, h *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		for _, b := range l.blocks {
			h = blocks.Release(forward(s, b, h), h)
		}
		if l.down != nil {
			h = blocks.Release(l.down.Forward(s, h, nil), h)
		}
		if l.up != nil {
			h = blocks.Release(l.up.Double(s, h, nil), h)
		}
		return h
	})
}

func newResidual(p nn.Path, c Config, in, out int) *blocks.Residual {
	return blocks.NewResidual(p, in, out, blocks.ResidualOptions{GroupsIn: c.Groups, GroupsOut: c.Groups, Eps: normEps})
}

// forward runs a residual block without embedding or condition.
func forward(s *torch.Scope, r *blocks.Residual, x *torch.Tensor) *torch.Tensor {
	return r.Forward(s, x, nil, models.Cond{})
}

// middle is two residual blocks with single-head self-attention over all pixels between them.
type middle struct {
	first, second *blocks.Residual
	norm          nn.GroupNorm
	attention     *blocks.Attention // nil: none
}

func newMiddle(p nn.Path, c Config, ch int) middle {
	m := middle{first: newResidual(p.Sub("resnets", 0), c, ch, ch)}
	if *c.MidAttention {
		a := p.Sub("attentions", 0)
		m.norm = nn.NewGroupNorm(a.Sub("group_norm"), c.Groups, ch, normEps)
		linear := func(name ...any) nn.Linear { return nn.NewLinear(a.Sub(name...), ch, ch) }
		m.attention = &blocks.Attention{Q: linear("to_q"), K: linear("to_k"), V: linear("to_v"), Out: linear("to_out", 0), Heads: 1}
	}
	m.second = newResidual(p.Sub("resnets", 1), c, ch, ch)
	return m
}

func (m middle) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := forward(s, m.first, x)
		if m.attention != nil {
			h = blocks.Release(m.attend(s, h), h)
		}
		return blocks.Release(forward(s, m.second, h), h)
	})
}

// attend returns x + attention(norm(x)) for x [n, C, h, w].
func (m middle) attend(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := x.Shape()
		n, c, height, width := shape[0], shape[1], shape[2], shape[3]
		h := m.norm.Forward(s, x)
		h = blocks.Release(h.Permute(s, 0, 2, 3, 1).Reshape(s, n, height*width, c), h)
		h = blocks.Release(m.attention.Forward(s, h, h, nil), h)
		h = h.Reshape(s, n, height, width, c).Permute(s, 0, 3, 1, 2)
		return x.Add(s, h)
	})
}
