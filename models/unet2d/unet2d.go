package unet2d

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// UNet2D is the network F_θ. It owns its weights.
type UNet2D struct {
	config Config
	store  *nn.Store

	fourier         *torch.Tensor // [Channels[0]] fixed frequencies, or nil
	noise           *blocks.TimestepEmbedding
	class           nn.Embedding
	number          *blocks.TimestepEmbedding // of the class's number, or nil
	until, guidance *blocks.TimestepEmbedding // or nil

	filter  *blocks.FIR // of NCSN++'s blocks
	convIn  nn.Conv2D
	down    []level
	mid     []blocks.Unit
	up      []level
	normOut nn.GroupNorm
	convOut nn.Conv2D
}

// level is the blocks of one resolution in one direction, and the resampling after them.
type level struct {
	traits
	blocks.Level

	toFeatures *nn.Conv2D // of an input image, or nil
	toImage    *nn.Conv2D // of an output image, or nil
	imageNorm  nn.GroupNorm
}

// The filter of NCSN++'s blocks.
var taps = []float64{1, 3, 3, 1}

// New makes a network with random weights drawn from seed: PyTorch's defaults, with the last convolution of every residual block and
// of the network near zero, so that the blocks start close to the identity. The last layers of the embeddings of Until and Guidance are
// zero: a new network ignores these inputs. The weights have type dtype; initial values are drawn in float32 for every type.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*UNet2D, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	u := &UNet2D{config: c}
	var err error
	if u.store, err = nn.Build(dev, dtype, seed, u.build); err != nil {
		return nil, err
	}
	return u, nil
}

// The module names of the conditioning inputs.
const (
	classes  = "class_embedding"
	until    = "until_embedding"
	guidance = "guidance_embedding"
)

func (u *UNet2D) build(p nn.Path) {
	c := u.config
	in, width := c.embedded(), c.EmbeddingWidth
	if c.Embedding == unet.Fourier {
		u.fourier = p.Sub("time_proj").Buffer("weight", nn.Normal(16), c.Channels[0])
	}
	u.noise = blocks.NewTimestepEmbedding(p.Sub("time_embedding"), in, width)
	switch {
	case c.ClassLabels:
		u.number = blocks.NewTimestepEmbedding(p.Sub(classes), in, width)
	case c.Classes > 0:
		u.class = nn.NewEmbedding(p.Sub(classes), c.labels(), width)
	}
	u.convIn = blocks.NewConv(p.Sub("conv_in"), c.InChannels, c.Channels[0], 3)
	all := c.plan()
	u.filter = &blocks.FIR{Kernel: p.Constant(blocks.Kernel(taps), 1, 1, len(taps), len(taps)), Taps: len(taps)}
	for i, st := range all.down {
		u.down = append(u.down, u.level(p.Sub("down_blocks", i), st, true))
	}
	u.mid = u.units(p.Sub("mid_block"), all.mid)
	for i, st := range all.up {
		u.up = append(u.up, u.level(p.Sub("up_blocks", i), st, false))
	}
	ch := c.Channels[0]
	u.normOut = nn.NewGroupNorm(p.Sub("conv_norm_out"), c.groupsOut(), ch, c.NormEps)
	u.convOut = nn.NewConv2DInit(p.Sub("conv_out"), ch, c.OutChannels, 3, torch.Conv2DOptions{Padding: 1}, blocks.NearZero(9*ch), nn.Zeros)
	for i, r := range u.residuals() {
		r.Place = i
	}

	// These are drawn last, so that all other initial weights are the same as without them.
	if c.Until {
		u.until = blocks.NewIgnoredEmbedding(p.Sub(until), in, width)
	}
	if c.Guidance {
		u.guidance = blocks.NewIgnoredEmbedding(p.Sub(guidance), c.Channels[0], width)
	}
}

func (u *UNet2D) units(p nn.Path, units []unit) (all []blocks.Unit) {
	for j, v := range units {
		b := blocks.Unit{Residual: blocks.NewResidual(p.Sub("resnets", j), v.in, v.out, u.residual(v.groupsIn, v.groupsOut, v.out, v.scale))}
		if v.attends {
			heads := 1
			if d := u.config.HeadDim; d > 0 {
				heads = v.out / d
			}
			b.Attention = blocks.NewSelfAttention(p.Sub("attentions", v.place), v.out, blocks.SelfAttentionOptions{
				Heads: heads, Groups: v.groupsAttention, Eps: u.config.NormEps, Scale: v.scale, Last: blocks.NearZero(v.out),
			})
		}
		all = append(all, b)
	}
	return all
}

func (u *UNet2D) residual(in, out, channels int, scale float64) blocks.ResidualOptions {
	c := u.config
	return blocks.ResidualOptions{
		GroupsIn: in, GroupsOut: out, Eps: c.NormEps, Embedding: c.EmbeddingWidth, ScaleShift: c.ScaleShift,
		Last: blocks.NearZero(9 * channels), Scale: scale, Dropout: c.Dropout,
	}
}

func (u *UNet2D) level(p nn.Path, st stage, down bool) level {
	l := level{traits: st.traits, Level: blocks.Level{Units: u.units(p, st.units)}}
	ch := st.channels
	if !st.resamples {
		return l
	}
	if !st.resnet {
		if down {
			l.Resample = blocks.NewShrink(p.Sub("downsamplers", 0), ch, u.config.PadAfter)
		} else {
			l.Resample = blocks.NewGrow(p.Sub("upsamplers", 0), ch)
		}
		return l
	}
	o := u.residual(st.groups, st.groups, ch, st.scale)
	o.ConvShortcut = st.skip
	var f *blocks.FIR
	if st.skip {
		f = u.filter
	}
	o.Resize = f.Resize(down)
	switch {
	case st.skip && down:
		l.Resample = blocks.NewResidual(p.Sub("resnet_down"), ch, ch, o)
		l.toFeatures = new(blocks.NewConv(p.Sub("skip_conv"), u.config.InChannels, ch, 1))
	case st.skip:
		l.Resample = blocks.NewResidual(p.Sub("resnet_up"), ch, ch, o)
		l.toImage = new(blocks.NewConv(p.Sub("skip_conv"), ch, u.config.OutChannels, 3))
		l.imageNorm = nn.NewGroupNorm(p.Sub("skip_norm"), st.groups, ch, u.config.NormEps)
	case down:
		l.Resample = blocks.NewResidual(p.Sub("downsamplers", 0), ch, ch, o)
	default:
		l.Resample = blocks.NewResidual(p.Sub("upsamplers", 0), ch, ch, o)
	}
	return l
}

// residuals are the residual blocks in the order of a forward pass.
func (u *UNet2D) residuals() (all []*blocks.Residual) {
	for _, l := range slices.Concat(u.down, []level{{Level: blocks.Level{Units: u.mid}}}, u.up) {
		all = append(all, l.Residuals()...)
	}
	return all
}

// Config returns the configuration with its defaults filled in.
func (u *UNet2D) Config() Config { return u.config }

// Parameters yields the trainable weights, with diffusers' names.
func (u *UNet2D) Parameters() iter.Seq2[string, *torch.Tensor] { return u.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights and the fixed frequencies.
func (u *UNet2D) Tensors() iter.Seq2[string, *torch.Tensor] { return u.store.Tensors() }

// Load copies weights into the network. Names and shapes have to match; the error lists all mismatches.
func (u *UNet2D) Load(weights iter.Seq2[string, *torch.Tensor]) error { return u.store.Load(weights) }

// Adopt loads the weights of a network with fewer conditioning inputs, as unet.UNet.Adopt does: missing embeddings of Until, Guidance and
// classes start at zero, and the network computes the same as the source network.
func (u *UNet2D) Adopt(weights iter.Seq2[string, *torch.Tensor]) error {
	o := blocks.Adoption{Modules: []string{classes, until, guidance}}
	if u.config.NullLabel && !u.config.ClassLabels {
		o.Table, o.Rows = classes+".weight", u.config.Classes
	}
	return o.Load(u.store, weights)
}

// Store returns the owner of the weights.
func (u *UNet2D) Store() *nn.Store { return u.store }

// Clone makes a copy with weights of its own that do not require gradients, for a target network or EMA weights.
func (u *UNet2D) Clone() (*UNet2D, error) { return nn.Clone(u, New) }

// Close frees the weights.
func (u *UNet2D) Close() { u.store.Close() }

// Forward returns F_θ(x, noise) for x [B, InChannels, H, W] and noise labels [B], as [B, OutChannels, H, W]. H and W have to be divisible
// by 2 once for each level but the last. With Cond.Checkpointing each residual block with its attention, and each resampling, is computed again
// for gradients.
func (u *UNet2D) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	u.check(x, noise, c)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		emb := u.embed(s, noise, c, x.DType())
		if u.config.Center {
			x = x.MulScalar(s, 2).SubScalar(s, 1)
		}
		in := x.To(s, c.Computes(u.store.DType()))
		last := blocks.LastIsFaster(s, in, x, u.config.ScaleShift, u.config.Channels...)
		h, image := blocks.Enter(s, u.convIn, in, c.Adapters, last)
		skips := []*torch.Tensor{h}
		for _, l := range u.down {
			for _, b := range l.Units {
				h = b.Forward(s, h, emb, c)
				skips = append(skips, h)
			}
			if l.Resample != nil {
				h = l.Resize(s, h, emb, c)
				if l.toFeatures != nil {
					image = u.filter.Down(s, image, u.filter.Padding())
					h = blocks.Release(l.toFeatures.Adapted(s, image, c.Adapters).Add(s, h), h)
				}
				skips = append(skips, h)
			}
		}
		for _, b := range u.mid {
			h = b.Forward(s, h, emb, c)
		}
		image = nil
		for _, l := range u.up {
			for _, b := range l.Units {
				top := len(skips) - 1
				h = b.Join(s, h, skips[top], emb, c)
				skips = skips[:top]
			}
			if l.skip && image != nil {
				image = blocks.Release(u.filter.Up(s, image), image)
			}
			if l.toImage != nil {
				y := l.toImage.Adapted(s, l.imageNorm.AdaptedSiLU(s, h, c.Adapters), c.Adapters)
				if image != nil {
					y = y.Add(s, image)
				}
				image = y
			}
			if l.Resample != nil {
				h = blocks.Release(l.Resize(s, h, emb, c), h)
			}
		}
		y := u.convOut.Adapted(s, u.normOut.AdaptedSiLU(s, h, c.Adapters), c.Adapters)
		if image != nil {
			y = y.Add(s, image)
		}
		if y = y.To(s, x.DType()); last {
			return y.Contiguous(s)
		}
		return y
	})
}

// check panics on invalid inputs, with a clearer message than an operator's.
func (u *UNet2D) check(x, noise *torch.Tensor, c models.Cond) {
	u.store.Takes("unet2d", "the images", x)
	in, halves := u.config.InChannels, 1<<(len(u.config.Channels)-1)
	if x.NDim() != 4 || x.Dim(1) != in || x.Dim(2)%halves != 0 || x.Dim(3)%halves != 0 || x.NumEl() == 0 {
		panic(&torch.Error{Op: "unet2d", Msg: fmt.Sprintf("want images of shape [B, %d, H, W] with H and W divisible by %d, got %v", in, halves, x.Shape())})
	}
	c.Check("unet2d", u.store, x, noise, u.config.Inputs())
}

// embed returns silu of the sum of the embeddings of noise label, class, Until and guidance, [B, EmbeddingWidth], which every block takes.
func (u *UNet2D) embed(s *torch.Scope, noise *torch.Tensor, c models.Cond, dtype torch.DType) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		e := u.noise.Forward(s, u.label(s, noise).To(s, dtype), c.Adapters)
		switch {
		case u.number != nil:
			e = e.Add(s, u.number.Forward(s, u.label(s, c.Class.To(s, noise.DType())).To(s, dtype), c.Adapters))
		case u.config.Classes > 0:
			e = e.Add(s, u.class.Adapted(s, c.Class, c.Adapters))
		}
		if u.until != nil {
			e = e.Add(s, u.until.Forward(s, u.label(s, c.Until).To(s, dtype), c.Adapters))
		}
		if u.guidance != nil {
			e = e.Add(s, u.guidance.Forward(s, u.positional(s, c.Guidance).To(s, dtype), c.Adapters))
		}
		return e.SiLU(s)
	})
}

// label returns the sines and cosines of labels v [B] at the frequencies of the configured embedding, in v's type.
func (u *UNet2D) label(s *torch.Scope, v *torch.Tensor) *torch.Tensor {
	if u.fourier == nil {
		return u.positional(s, v)
	}
	return blocks.Fourier(s, v, u.fourier)
}

// positional returns the cosines and sines of v [B] at geometric frequencies, [B, Channels[0]].
func (u *UNet2D) positional(s *torch.Scope, v *torch.Tensor) *torch.Tensor {
	return blocks.Sinusoids{Dim: u.config.Channels[0], Shift: u.config.FreqShift, SinFirst: u.config.SinFirst}.Of(s, v)
}
