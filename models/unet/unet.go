package unet

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

const sqrtHalf = math.Sqrt2 / 2

// UNet is the network F_θ. It owns its weights.
type UNet struct {
	config Config
	store  *nn.Store

	fourier         *torch.Tensor // [EmbeddingChannels] fixed frequencies, or nil
	noise           *blocks.TimestepEmbedding
	until, guidance *blocks.TimestepEmbedding // or nil
	class           nn.Embedding
	first           nn.Linear // the class embedding with Config.LabelsFirst

	convIn  nn.Conv2D
	down    []level
	mid     []blocks.Unit // two, attention after the first
	up      []level
	normOut nn.GroupNorm
	convOut nn.Conv2D
}

// level is the blocks of one resolution and the resampling after them.
type level struct {
	blocks.Level
	pyramid *pyramid // after resampling; nil: none
}

// New makes a network with random weights drawn from seed: PyTorch's defaults, with the last convolution of every residual block and
// of the network near zero, as in DDPM++, so that the blocks start close to the identity. The last layers of the embeddings of Until
// and Guidance are zero: a new network ignores these inputs, and has otherwise the same weights as one without them. The weights have
// type dtype; initial values are drawn in float32 for every type.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*UNet, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	u := &UNet{config: c}
	var err error
	if u.store, err = nn.Build(dev, dtype, seed, u.build); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *UNet) build(p nn.Path) {
	c := u.config
	in, width := c.labelWidth(), c.embeddingWidth()
	if c.Embedding == Fourier {
		u.fourier = p.Sub("time_proj").Buffer("weight", nn.Normal(c.FourierScale), c.embeddingChannels())
	}
	u.noise = blocks.NewTimestepEmbedding(p.Sub("time_embedding"), in, width)
	switch {
	case c.LabelsFirst:
		u.first = nn.NewLinear(p.Sub(classes), c.Classes, in)
	case c.Classes > 0:
		u.class = nn.NewEmbedding(p.Sub(classes), c.labels(), width)
	}
	if c.Augment > 0 {
		p.Sub("augment_embedding").Buffer("weight", nn.Zeros, in, c.Augment)
	}
	f := newFIR(p, c.Filter)
	u.convIn = blocks.NewConv(p.Sub("conv_in"), c.InChannels, c.Channels, 3)

	ch, side, aux := c.Channels, c.Resolution, c.InChannels
	skips := []int{ch}
	for i, m := range c.Mult {
		lp, out := p.Sub("down_blocks", i), c.Channels*m
		var l level
		for j := range c.Blocks {
			b := blocks.Unit{Residual: newResidual(lp.Sub("resnets", j), c, ch, out, c.SkipScale)}
			if c.attendsAt(side) {
				b.Attention = newAttention(lp.Sub("attentions", j), c, out, c.SkipScale)
			}
			l.Units = append(l.Units, b)
			skips = append(skips, out)
			ch = out
		}
		if i < len(c.Mult)-1 {
			l.Resample = newSampler(lp.Sub("downsamplers", 0), c, f, ch, "down")
			if c.ResidualInput {
				l.pyramid = newPyramid(lp.Sub("aux_residual"), c, f, aux, ch)
				aux = ch
			}
			skips = append(skips, ch)
			side /= 2
		}
		u.down = append(u.down, l)
	}

	mp := p.Sub("mid_block")
	first := blocks.Unit{Residual: newResidual(mp.Sub("resnets", 0), c, ch, ch, c.MidSkipScale)}
	if !c.NoMidAttention {
		first.Attention = newAttention(mp.Sub("attentions", 0), c, ch, c.MidSkipScale)
	}
	u.mid = []blocks.Unit{first, {Residual: newResidual(mp.Sub("resnets", 1), c, ch, ch, c.MidSkipScale)}}

	for i := range c.Mult {
		lp, out := p.Sub("up_blocks", i), c.Channels*c.Mult[len(c.Mult)-1-i]
		var l level
		for j := range c.Blocks + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			b := blocks.Unit{Residual: newResidual(lp.Sub("resnets", j), c, ch+skip, out, c.SkipScale)}
			if c.attendsAt(side) && (j == c.Blocks || !c.LastDecoderAttention) {
				at := j
				if c.LastDecoderAttention {
					at = 0
				}
				b.Attention = newAttention(lp.Sub("attentions", at), c, out, c.SkipScale)
			}
			l.Units = append(l.Units, b)
			ch = out
		}
		if i < len(c.Mult)-1 {
			l.Resample = newSampler(lp.Sub("upsamplers", 0), c, f, ch, "up")
			side *= 2
		}
		u.up = append(u.up, l)
	}
	u.normOut = nn.NewGroupNorm(p.Sub("conv_norm_out"), c.groups(ch), ch, c.NormEps)
	u.convOut = nn.NewConv2DInit(p.Sub("conv_out"), ch, c.OutChannels, 3, torch.Conv2DOptions{Padding: 1}, blocks.NearZero(9*ch), nn.Zeros)
	for i, r := range u.residuals() {
		r.Place = i
	}

	// These are drawn last, so that all other initial weights are the same as without them.
	if c.Until {
		u.until = blocks.NewIgnoredEmbedding(p.Sub(until), in, width)
	}
	if c.Guidance {
		u.guidance = blocks.NewIgnoredEmbedding(p.Sub(guidance), c.embeddingChannels(), width)
	}
}

// residuals are the residual blocks in the order of a forward pass.
func (u *UNet) residuals() (all []*blocks.Residual) {
	for _, l := range slices.Concat(u.down, []level{{Level: blocks.Level{Units: u.mid}}}, u.up) {
		all = append(all, l.Residuals()...)
	}
	return all
}

// The module names of the optional conditioning inputs.
const (
	classes  = "class_embedding"
	until    = "until_embedding"
	guidance = "guidance_embedding"
)

// Config returns the configuration with its defaults filled in.
func (u *UNet) Config() Config { return u.config }

// Parameters yields the trainable weights, with diffusers' names.
func (u *UNet) Parameters() iter.Seq2[string, *torch.Tensor] { return u.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights, the fixed frequencies and the resampling filter.
func (u *UNet) Tensors() iter.Seq2[string, *torch.Tensor] { return u.store.Tensors() }

// Load copies weights into the network. Names and shapes have to match; the error lists all mismatches.
func (u *UNet) Load(weights iter.Seq2[string, *torch.Tensor]) error { return u.store.Load(weights) }

// Adopt loads the weights of a network with fewer conditioning inputs: without the embedding of Until, Guidance or classes, or without
// the null class. Missing weights are set to zero, except the first layers of embeddings, which keep their values. The network then
// computes the same as the source network, whatever its additional inputs, and can be trained from there. All other weights have to
// match as in Load.
func (u *UNet) Adopt(weights iter.Seq2[string, *torch.Tensor]) error {
	o := blocks.Adoption{Modules: []string{classes, until, guidance}}
	if u.config.NullLabel && !u.config.LabelsFirst {
		o.Table, o.Rows = classes+".weight", u.config.Classes
	}
	return o.Load(u.store, weights)
}

// Store returns the owner of the weights.
func (u *UNet) Store() *nn.Store { return u.store }

// Clone makes a copy with weights of its own that do not require gradients, for a target network or EMA weights.
func (u *UNet) Clone() (*UNet, error) { return nn.Clone(u, New) }

// Close frees the weights.
func (u *UNet) Close() { u.store.Close() }

// Forward returns F_θ(x, noise) for x [B, InChannels, R, R] and noise labels [B], as [B, OutChannels, R, R]. With Cond.Checkpointing each
// residual block with its attention, and each resampling, is computed again for gradients.
func (u *UNet) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	u.check(x, noise, c)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		emb := u.embed(s, noise, c, x.DType())
		in := x.To(s, c.Computes(u.store.DType()))
		last := blocks.LastIsFaster(s, in, x, u.config.ScaleShift, u.config.Channels)
		h, aux := blocks.Enter(s, u.convIn, in, c.Adapters, last)
		skips := []*torch.Tensor{h}
		for _, l := range u.down {
			for _, b := range l.Units {
				h = b.Forward(s, h, emb, c)
				skips = append(skips, h)
			}
			if l.Resample != nil {
				h = l.Resize(s, h, emb, c)
				if l.pyramid != nil {
					h = blocks.Release(blocks.Checkpoint(s, c.Checkpointing, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
						return l.pyramid.forward(s, x[0], x[1], c.Adapters)
					}, aux, h), h)
					aux = h
				}
				skips = append(skips, h)
			}
		}
		for _, b := range u.mid {
			h = b.Forward(s, h, emb, c)
		}
		for _, l := range u.up {
			for _, b := range l.Units {
				top := len(skips) - 1
				h = b.Join(s, h, skips[top], emb, c)
				skips = skips[:top]
			}
			if l.Resample != nil {
				h = blocks.Release(l.Resize(s, h, emb, c), h)
			}
		}
		y := u.convOut.Adapted(s, u.normOut.AdaptedSiLU(s, h, c.Adapters), c.Adapters).To(s, x.DType())
		if last {
			return y.Contiguous(s)
		}
		return y
	})
}

// check panics on invalid inputs, with a clearer message than an operator's.
func (u *UNet) check(x, noise *torch.Tensor, c models.Cond) {
	u.store.Takes("unet", "the images", x)
	in, halves := u.config.InChannels, 1<<(len(u.config.Mult)-1)
	if x.NDim() != 4 || x.Dim(1) != in || x.Dim(2)%halves != 0 || x.Dim(3)%halves != 0 || x.NumEl() == 0 {
		panic(&torch.Error{Op: "unet", Msg: fmt.Sprintf("want images of shape [B, %d, H, W] with H and W divisible by %d, got %v", in, halves, x.Shape())})
	}
	c.Check("unet", u.store, x, noise, u.config.Inputs())
}

// embed returns silu of the sum of the embeddings of noise label, class, Until and guidance, [B, 4·EmbeddingChannels], which every block
// takes.
func (u *UNet) embed(s *torch.Scope, noise *torch.Tensor, c models.Cond, dtype torch.DType) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		label := u.label(s, noise).To(s, dtype)
		if u.config.LabelsFirst {
			label = label.Add(s, u.classFirst(s, c))
		}
		e := u.noise.Forward(s, label, c.Adapters)
		if u.config.Classes > 0 && !u.config.LabelsFirst {
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

// classFirst returns the class embedding that is added to the sines and cosines of the noise label: the linear layer of the one-hot class
// times √Classes, or of zeros for the null class.
func (u *UNet) classFirst(s *torch.Scope, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		columns := c.Adapters.Weight(s, u.first.Weight).Transpose(s, 0, 1) // [Classes, width]
		if u.config.NullLabel {
			columns = columns.Pad(s, []int{0, 0, 0, 1}, torch.PadConstant, 0)
		}
		e := columns.IndexSelect(s, 0, c.Class).MulScalar(s, math.Sqrt(float64(u.config.Classes)))
		return e.Add(s, c.Adapters.Weight(s, u.first.Bias))
	})
}

// label returns the sines and cosines of labels v [B] at the frequencies of the configured embedding, in v's type.
func (u *UNet) label(s *torch.Scope, v *torch.Tensor) *torch.Tensor {
	if u.fourier == nil {
		return u.positional(s, v)
	}
	return blocks.Fourier(s, v, u.fourier)
}

// positional returns the cosines and sines of v [B] at geometric frequencies, [B, EmbeddingChannels]. Guidance scales are always embedded in
// this way: they are a few units apart, and at random frequencies of about 16 turns per unit the embeddings of neighbouring scales
// would be unrelated.
func (u *UNet) positional(s *torch.Scope, v *torch.Tensor) *torch.Tensor {
	c := u.config
	e := blocks.Sinusoids{Dim: c.embeddingChannels(), SinFirst: c.SinFirst}
	if c.EndpointFreqs {
		e.Shift = 1
	}
	return e.Of(s, v)
}

// newResidual makes a residual block whose last convolution is initialised near zero.
func newResidual(p nn.Path, c Config, in, out int, scale float64) *blocks.Residual {
	return blocks.NewResidual(p, in, out, c.residual(in, out, scale))
}

// newResampling makes a residual block that down- or upsamples before its first convolution and on its shortcut.
func newResampling(p nn.Path, c Config, f *blocks.FIR, channels int, way string) *blocks.Residual {
	o := c.residual(channels, channels, c.SkipScale)
	o.ConvShortcut = c.ResampleSkip
	o.Resize = f.Resize(way == "down")
	return blocks.NewResidual(p, channels, channels, o)
}

func (c Config) residual(in, out int, scale float64) blocks.ResidualOptions {
	return blocks.ResidualOptions{
		GroupsIn: c.groups(in), GroupsOut: c.groups(out), Eps: c.NormEps, Embedding: c.embeddingWidth(), ScaleShift: c.ScaleShift,
		Last: blocks.NearZero(9 * out), Scale: scale, Dropout: c.Dropout,
	}
}

// newAttention makes self-attention over the pixels whose output layer is initialised near zero.
func newAttention(p nn.Path, c Config, channels int, scale float64) *blocks.SelfAttention {
	return blocks.NewSelfAttention(p, channels, blocks.SelfAttentionOptions{
		Heads: c.heads(channels), Groups: c.groups(channels), Eps: c.NormEps, Scale: scale, Last: blocks.NearZero(channels),
	})
}

func newSampler(p nn.Path, c Config, f *blocks.FIR, channels int, way string) blocks.Resampler {
	switch {
	case c.Resample == ResampleResidual:
		return newResampling(p, c, f, channels, way)
	case way == "down":
		return blocks.NewShrink(p, channels, c.PadAfter)
	}
	return blocks.NewGrow(p, channels)
}
