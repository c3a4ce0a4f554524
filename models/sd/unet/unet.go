package unet

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// UNet predicts noise or v from noisy latents, depending on its training. It owns its weights.
type UNet struct {
	config Config
	store  *nn.Store

	encoder
	up      []level // from the smallest image to the largest
	normOut nn.GroupNorm
	convOut nn.Conv2D
}

var _ models.Network = (*UNet)(nil)

// New makes a network with random weights drawn from seed, by PyTorch's rules.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*UNet, error) {
	return newUNet(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.Build(dev, dtype, seed, build) })
}

// From makes a network from the weights in src, frozen; see [nn.BuildFrom].
func From(c Config, src nn.Source, dev torch.Device, dtype torch.DType) (*UNet, error) {
	return newUNet(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
}

func newUNet(c Config, fill func(build func(p nn.Path)) (*nn.Store, error)) (*UNet, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	u := &UNet{config: c}
	var err error
	if u.store, err = fill(u.build); err != nil {
		return nil, err
	}
	return u, nil
}

// Shapes returns the names and shapes of the network's tensors without creating them. The configuration must be valid.
func Shapes(c Config) []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&UNet{config: c.WithDefaults()}).build(p) })
}

func (u *UNet) build(p nn.Path) {
	c := u.config
	skips := u.encoder.build(p, c.Encoder, c.TimeEmbeddingDim, c.TimeCondProjDim)
	n, depths := c.levels(), c.ReverseTransformerLayers
	if len(depths) == 0 {
		depths = slices.Clone(c.TransformerLayers)
		slices.Reverse(depths)
	}
	ch := c.BlockOutChannels[n-1]
	for i, kind := range c.UpBlockTypes {
		lp, at := p.Sub("up_blocks", i), n-1-i
		var l level
		for j := range c.LayersPerBlock.at(at) + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			out := c.BlockOutChannels[at]
			b := block{res: newResidual(lp.Sub("resnets", j), c.Encoder, ch+skip, out, c.TimeEmbeddingDim)}
			if kind == crossUpBlock {
				b.attn = newTransformer(lp.Sub("attentions", j), c.Encoder, at, depths.at(i, j))
			}
			l.blocks = append(l.blocks, b)
			ch = out
		}
		if i < n-1 {
			l.up = blocks.NewUpsample(lp.Sub("upsamplers", 0), ch)
		}
		u.up = append(u.up, l)
	}
	u.normOut = nn.NewGroupNorm(p.Sub("conv_norm_out"), c.NormNumGroups, ch, c.NormEps)
	u.convOut = blocks.NewConv(p.Sub("conv_out"), ch, c.OutChannels, 3)
}

// Config returns the configuration with its defaults filled in.
func (u *UNet) Config() Config { return u.config }

// Store returns the store that owns the weights.
func (u *UNet) Store() *nn.Store { return u.store }

// Parameters yields the weights by diffusers' names.
func (u *UNet) Parameters() iter.Seq2[string, *torch.Tensor] { return u.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights.
func (u *UNet) Tensors() iter.Seq2[string, *torch.Tensor] { return u.store.Tensors() }

// Close frees the weights.
func (u *UNet) Close() { u.store.Close() }

// Forward returns the network's prediction [n, OutChannels, h, w] for latents x [n, InChannels, h, w] and timesteps t, [n] or [1], of any
// data type. h and w need not be multiples of anything. Invalid inputs panic with a *torch.Error. Required in c are
//   - Text [n, tokens, CrossAttentionDim];
//   - for networks with an additional embedding, Pooled [n, p] and Sizes [n, 6];
//   - for guidance-distilled networks, Guidance: the scales [n] or [1], or the result of GuidanceEmbedding, [n, TimeCondProjDim];
//
// Control, Adapters and Checkpointing are optional. Checkpointing computes residual blocks, transformers (each of their blocks, if there are
// several) and resampling again. Class and Until are errors. The network has no dropout.
func (u *UNet) Forward(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	u.check("unet", u.store, x, t, c)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		d := c.Computes(u.store.DType())
		in := u.embed(s, t, x.DType(), c)
		in.text = in.text.To(s, d)
		h, last := u.enter(s, x, d, c.Adapters)
		skips := u.descend(s, h, in)
		var add models.Residuals
		if c.Control != nil {
			add = *c.Control
		}
		if add.Down != nil && len(add.Down) != len(skips) {
			panic(&torch.Error{Op: "unet", Msg: fmt.Sprintf(
				"want %d residuals in Cond.Control.Down, got %d: the ControlNet is for another model family", len(skips), len(add.Down))})
		}
		h = u.middle(s, skips[len(skips)-1], in)
		if add.Mid != nil {
			h = blocks.Release(h.Add(s, add.Mid.To(s, d)), h)
		}
		for _, l := range u.up {
			for _, b := range l.blocks {
				last := len(skips) - 1
				var more *torch.Tensor
				if add.Down != nil {
					more = add.Down[last].To(s, d)
				}
				h = b.attend(s, b.join(s, h, skips[last], more, in), in)
				skips = skips[:last]
			}
			if l.up != nil {
				next := skips[len(skips)-1]
				height, width := next.Dim(2), next.Dim(3)
				h = blocks.Release(in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
					return l.up.To(s, x[0], height, width, in.adapters)
				}, h), h)
			}
		}
		h = blocks.Release(u.normOut.AdaptedSiLU(s, h, c.Adapters), h)
		if h = u.convOut.Adapted(s, h, c.Adapters); last {
			h = h.Contiguous(s)
		}
		return h.To(s, x.DType())
	})
}

// encoder is the common part of a U-Net and a ControlNet: the down blocks and the middle block.
type encoder struct {
	config Encoder
	time   *blocks.TimestepEmbedding
	cond   *nn.Linear                // projection of the guidance embedding, or nil
	sizes  *blocks.TimestepEmbedding // of pooled text and sizes, or nil
	convIn nn.Conv2D
	down   []level
	mid    []block
}

// level is the blocks at one resolution and the resampling after them.
type level struct {
	blocks []block
	down   *blocks.Downsample // nil: none
	up     *blocks.Upsample   // nil: none
}

// block is a residual block and the transformer after it, if any.
type block struct {
	res  *blocks.Residual
	attn *transformer // or nil
}

// inputs are the inputs of all blocks.
type inputs struct {
	emb, text *torch.Tensor // SiLU of the timestep embedding, [n or 1, width]; the text features
	adapters  nn.Adapters

	checkpointing bool
}

// block runs a function of x and of weights, with gradient checkpointing if that was asked for.
func (in inputs) block(s *torch.Scope, f func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor, x ...*torch.Tensor) *torch.Tensor {
	return blocks.Checkpoint(s, in.checkpointing, f, x...)
}

// build makes the layers. It returns the channels of the skip connections, in the order of the down blocks.
func (e *encoder) build(p nn.Path, c Encoder, width, guidance int) (skips []int) {
	e.config = c
	e.time = blocks.NewTimestepEmbedding(p.Sub("time_embedding"), c.BlockOutChannels[0], width)
	if guidance > 0 {
		cp := p.Sub("time_embedding", "cond_proj")
		cond := nn.NewLinearInit(cp, guidance, c.BlockOutChannels[0], nn.FanIn(guidance), nil)
		e.cond = &cond
	}
	if c.AdditionEmbedType != "" {
		e.sizes = blocks.NewTimestepEmbedding(p.Sub("add_embedding"), c.ProjectionInputDim, width)
	}
	n, ch := c.levels(), c.BlockOutChannels[0]
	e.convIn = blocks.NewConv(p.Sub("conv_in"), c.InChannels, ch, 3)
	skips = []int{ch}
	for i, kind := range c.DownBlockTypes {
		lp, out := p.Sub("down_blocks", i), c.BlockOutChannels[i]
		var l level
		for j := range c.LayersPerBlock.at(i) {
			b := block{res: newResidual(lp.Sub("resnets", j), c, ch, out, width)}
			if kind == crossDownBlock {
				b.attn = newTransformer(lp.Sub("attentions", j), c, i, c.TransformerLayers.at(i, j))
			}
			l.blocks = append(l.blocks, b)
			skips = append(skips, out)
			ch = out
		}
		if i < n-1 {
			l.down = blocks.NewDownsample(lp.Sub("downsamplers", 0), ch, false)
			skips = append(skips, ch)
		}
		e.down = append(e.down, l)
	}
	mp := p.Sub("mid_block")
	if c.MidBlockType != NoMid {
		e.mid = append(e.mid, block{res: newResidual(mp.Sub("resnets", 0), c, ch, ch, width)})
	}
	if c.MidBlockType == MidCrossAttention {
		e.mid[0].attn = newTransformer(mp.Sub("attentions", 0), c, n-1, c.TransformerLayers.at(n-1, 0))
		e.mid = append(e.mid, block{res: newResidual(mp.Sub("resnets", 1), c, ch, ch, width)})
	}
	return skips
}

// enter returns the first convolution's features of latents x in type d, and whether they are in channels-last order while x is not.
func (e *encoder) enter(s *torch.Scope, x *torch.Tensor, d torch.DType, a nn.Adapters) (h *torch.Tensor, last bool) {
	in := x.To(s, d)
	last = blocks.LastIsFaster(s, in, x, false, e.config.BlockOutChannels...)
	h, _ = blocks.Enter(s, e.convIn, in, a, last)
	return h, last
}

// descend runs the down blocks on h and returns the skip connections, the first of which is h.
func (e *encoder) descend(s *torch.Scope, h *torch.Tensor, in inputs) []*torch.Tensor {
	skips := []*torch.Tensor{h}
	for _, l := range e.down {
		for _, b := range l.blocks {
			h = b.forward(s, h, in)
			skips = append(skips, h)
		}
		if l.down != nil {
			h = in.block(s, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor { return l.down.Forward(s, x[0], in.adapters) }, h)
			skips = append(skips, h)
		}
	}
	return skips
}

// middle runs the middle block on the last skip connection, which it does not free.
func (e *encoder) middle(s *torch.Scope, last *torch.Tensor, in inputs) *torch.Tensor {
	h := last.Share(s)
	for _, b := range e.mid {
		h = blocks.Release(b.forward(s, h, in), h)
	}
	return h
}

// check panics for invalid inputs, with a clearer message than an operator would give.
func (e *encoder) check(op string, st *nn.Store, x, t *torch.Tensor, c models.Cond) {
	want := func(ok bool, format string, v ...any) {
		if !ok {
			panic(&torch.Error{Op: op, Msg: fmt.Sprintf(format, v...)})
		}
	}
	in, dim := e.config.InChannels, e.config.CrossAttentionDim[0]
	st.Takes(op, "the latents", x)
	c.Adapters.CheckOpen(op)
	want(x.NDim() == 4 && x.Dim(1) == in, "want latents of shape [n, %d, h, w], got %v", in, x.Shape())
	n := x.Dim(0)
	perLatent := func(v *torch.Tensor) bool { return v.NDim() < 2 && (v.NumEl() == 1 || v.NumEl() == n) }
	st.TakesLabels(op, "the timesteps", t, n)
	want(c.Class == nil, "the network is not class-conditional, but Cond.Class is set")
	want(c.Until == nil, "the network does not take the end time of a jump, but Cond.Until is set")
	want(c.Text != nil, "the network requires prompt embeddings in Cond.Text")
	st.Takes(op, "the prompt embeddings (Cond.Text)", c.Text)
	want(c.Text.NDim() == 3 && c.Text.Dim(0) == n && c.Text.Dim(2) == dim,
		"want Cond.Text of shape [%d, tokens, %d], got %v", n, dim, c.Text.Shape())
	want((e.cond == nil) == (c.Guidance == nil), "the network takes a guidance scale: %t; Cond.Guidance is set: %t",
		e.cond != nil, c.Guidance != nil)
	if c.Guidance != nil {
		width := e.cond.Weight.Dim(1)
		want(perLatent(c.Guidance) || (c.Guidance.NDim() == 2 && c.Guidance.Dim(1) == width),
			"want Cond.Guidance of shape [%d], [1] or, embedded, [%d, %d], got %v", n, n, width, c.Guidance.Shape())
	}
	told := c.Pooled != nil || c.Sizes != nil
	want(e.sizes != nil || !told, "the network takes neither pooled text nor sizes, but Cond.Pooled or Cond.Sizes is set")
	if e.sizes != nil {
		want(c.Pooled != nil && c.Sizes != nil, "the network requires pooled text and sizes in Cond.Pooled and Cond.Sizes")
		st.Takes(op, "the pooled text (Cond.Pooled)", c.Pooled)
		each, all := e.config.AdditionTimeEmbedDim, e.config.ProjectionInputDim
		pooled, sizes := c.Pooled.Shape(), c.Sizes.Shape()
		want(len(pooled) == 2 && len(sizes) == 2 && pooled[1]+each*sizes[1] == all && pooled[0] == sizes[0],
			"want Cond.Pooled [%d, p] and Cond.Sizes [%d, k] with p + %d·k = %d, got %v and %v",
			n, n, each, all, pooled, sizes)
	}
}
