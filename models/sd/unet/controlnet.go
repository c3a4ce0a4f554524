package unet

import (
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// ControlNet computes, from a control image and the latents, residuals for a U-Net of the same family (Zhang et al. 2023). It owns its
// weights.
type ControlNet struct {
	config ControlNetConfig
	store  *nn.Store

	encoder
	hint    []nn.Conv2D // of the control image, with SiLU between them
	downOut []nn.Conv2D // zero convolutions of the down blocks' outputs
	midOut  nn.Conv2D
}

// NewControlNet makes a ControlNet with random weights drawn from seed, by PyTorch's rules. Its outputs are zero, as in the paper.
func NewControlNet(c ControlNetConfig, dev torch.Device, dtype torch.DType, seed uint64) (*ControlNet, error) {
	return newControlNet(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.Build(dev, dtype, seed, build) })
}

// ControlNetFrom makes a ControlNet from the weights in src, frozen; see [nn.BuildFrom].
func ControlNetFrom(c ControlNetConfig, src nn.Source, dev torch.Device, dtype torch.DType) (*ControlNet, error) {
	return newControlNet(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
}

func newControlNet(c ControlNetConfig, fill func(build func(p nn.Path)) (*nn.Store, error)) (*ControlNet, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := &ControlNet{config: c}
	var err error
	if n.store, err = fill(n.build); err != nil {
		return nil, err
	}
	return n, nil
}

// ControlNetShapes returns the names and shapes of the ControlNet's tensors without creating them. The configuration must be valid.
func ControlNetShapes(c ControlNetConfig) []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&ControlNet{config: c.WithDefaults()}).build(p) })
}

func (n *ControlNet) build(p nn.Path) {
	c := n.config
	skips := n.encoder.build(p, c.Encoder, 4*c.BlockOutChannels[0], 0)
	hp := p.Sub("controlnet_cond_embedding")
	ch := c.EmbeddingChannels[0]
	n.hint = []nn.Conv2D{blocks.NewConv(hp.Sub("conv_in"), c.ConditioningChannels, ch, 3)}
	for i, out := range c.EmbeddingChannels[1:] {
		n.hint = append(n.hint, blocks.NewConv(hp.Sub("blocks", 2*i), ch, ch, 3))
		n.hint = append(n.hint, nn.NewConv2D(hp.Sub("blocks", 2*i+1), ch, out, 3, torch.Conv2DOptions{Padding: 1, Stride: 2}))
		ch = out
	}
	n.hint = append(n.hint, zeroConv(hp.Sub("conv_out"), ch, c.BlockOutChannels[0], 3))
	for i, ch := range skips {
		n.downOut = append(n.downOut, zeroConv(p.Sub("controlnet_down_blocks", i), ch, ch, 1))
	}
	last := c.BlockOutChannels[c.levels()-1]
	n.midOut = zeroConv(p.Sub("controlnet_mid_block"), last, last, 1)
}

// zeroConv makes a convolution whose initial weights are zero.
func zeroConv(p nn.Path, in, out, k int) nn.Conv2D {
	return nn.NewConv2DInit(p, in, out, k, torch.Conv2DOptions{Padding: k / 2}, nn.Zeros, nn.Zeros)
}

// Config returns the configuration with its defaults filled in.
func (n *ControlNet) Config() ControlNetConfig { return n.config }

// Store returns the store that owns the weights.
func (n *ControlNet) Store() *nn.Store { return n.store }

// Parameters yields the weights by diffusers' names.
func (n *ControlNet) Parameters() iter.Seq2[string, *torch.Tensor] { return n.store.Parameters() }

// Tensors yields the tensors of a checkpoint: the weights.
func (n *ControlNet) Tensors() iter.Seq2[string, *torch.Tensor] { return n.store.Tensors() }

// Close frees the weights.
func (n *ControlNet) Close() { n.store.Close() }

// Reduction is the number of pixels of the control image per latent pixel, in height and width.
func (n *ControlNet) Reduction() int { return 1 << (len(n.config.EmbeddingChannels) - 1) }

// Forward returns the residuals to pass to a U-Net as Cond.Control, for latents x [n, InChannels, h, w], timesteps t and a control image [n
// or 1, ConditioningChannels, 8h, 8w] with values from 0 to 1 (8: Reduction). They are multiplied by scale. In guess mode, which is for
// empty prompts, they are also multiplied by factors that increase from 0.1 at the first level to 1 in the middle block. c is the U-Net's
// condition; its Guidance and Control are ignored.
func (n *ControlNet) Forward(
	s *torch.Scope, x, t *torch.Tensor, c models.Cond, image *torch.Tensor, scale float64, guess bool,
) *models.Residuals {
	c.Guidance = nil
	n.check("controlnet", n.store, x, t, c)
	n.store.Takes("controlnet", "the image", image)
	n.checkImage(image, x)
	in := n.embed(s, t, x.DType(), c)
	down := n.descend(s, s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h, _ := n.enter(s, x, x.DType(), c.Adapters)
		return h.Add(s, n.see(s, image, c.Adapters))
	}), in)
	mid := n.middle(s, down[len(down)-1], in)
	in.emb.Free()
	scales := scalesOf(len(down)+1, scale, guess)
	out := func(conv nn.Conv2D, h *torch.Tensor, scale float64) *torch.Tensor {
		h = blocks.Release(conv.Adapted(s, h, c.Adapters), h)
		if scale == 1 {
			return h
		}
		return blocks.Release(h.MulScalar(s, scale), h)
	}
	for i, conv := range n.downOut {
		down[i] = out(conv, down[i], scales[i])
	}
	return &models.Residuals{Down: down, Mid: out(n.midOut, mid, scales[len(down)])}
}

// see embeds the control image as features [n, BlockOutChannels[0], h, w].
func (n *ControlNet) see(s *torch.Scope, image *torch.Tensor, a nn.Adapters) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := image
		if n.config.ChannelOrder == "bgr" {
			h = image.Flip(s, 1)
		}
		for i, conv := range n.hint {
			next := conv.Adapted(s, h, a)
			if h != image {
				h.Free()
			}
			if h = next; i < len(n.hint)-1 {
				h = blocks.SiLU(s, h)
			}
		}
		return h
	})
}

func (n *ControlNet) checkImage(image, x *torch.Tensor) {
	c, r := n.config.ConditioningChannels, n.Reduction()
	small := func(v int) int { return (v + r - 1) / r }
	if image.NDim() != 4 || (image.Dim(0) != 1 && image.Dim(0) != x.Dim(0)) || image.Dim(1) != c ||
		small(image.Dim(2)) != x.Dim(2) || small(image.Dim(3)) != x.Dim(3) {
		msg := fmt.Sprintf("want an image of shape [%d, %d, %d, %d] for latents %v, got %v",
			x.Dim(0), c, r*x.Dim(2), r*x.Dim(3), x.Shape(), image.Shape())
		panic(&torch.Error{Op: "controlnet", Msg: msg})
	}
}

// scalesOf returns n scales: all equal, or in guess mode logarithmically spaced from a tenth to the whole, computed in float32.
func scalesOf(n int, scale float64, guess bool) []float64 {
	scales := make([]float64, n)
	for i := range scales {
		scales[i] = scale
		if guess {
			scales[i] *= float64(float32(math.Pow(10, float64(i)/float64(n-1)-1)))
		}
	}
	return scales
}
