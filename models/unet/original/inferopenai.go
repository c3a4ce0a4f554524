package original

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch/nn"
)

// sizes are the image sizes of openai's code by the channels of the levels: create_model of guided-diffusion, consistency_models and
// improved-diffusion. The first level of 512 pixels has half of the embedding's channels.
var sizes = []struct {
	mult []int
	half bool
	side int
}{
	{[]int{1, 2, 2, 2}, false, 32},
	{[]int{1, 2, 3, 4}, false, 64},
	{[]int{1, 1, 2, 3, 4}, false, 128},
	{[]int{1, 1, 2, 2, 4, 4}, false, 256},
	{[]int{1, 2, 2, 4, 4, 8, 8}, true, 512},
}

// inferOpenAI finds the configuration of openai's UNetModel.
func inferOpenAI(src nn.Source, code Code, s Settings) (Layout, []string, error) {
	at := files{src, ""}
	fail := func(err error) (Layout, []string, error) { return Layout{}, nil, err }
	c := unet.Config{NormGroups: 32, ScaleShift: false, Resample: unet.ResampleResidual}
	first, err := channels(at, "input_blocks.0.0.weight")
	if err != nil {
		return fail(err)
	}
	base, err := embedding(at, "time_embed.0.weight", "time_embed.2.weight", 1)
	if err != nil {
		return fail(err)
	}
	c.Channels, c.InChannels, c.OutChannels = first, at.size("input_blocks.0.0.weight", 1), at.size("out.2.weight", 0)
	if base != first {
		c.EmbeddingChannels = base
	}
	c.Classes = at.size("label_emb.weight", 0)
	if c.InChannels > 0 && c.OutChannels > 0 && c.InChannels != c.OutChannels && c.OutChannels != 2*c.InChannels {
		return fail(fmt.Errorf("it takes images of %d channels and predicts %d: a model for super-resolution, which also takes a small image, is not supported", c.InChannels, c.OutChannels))
	}
	levels, attends, err := openAILevels(at, &c)
	if err != nil {
		return fail(err)
	}
	if c.Mult, err = multiples(levels, first); err != nil {
		return fail(err)
	}
	l := Layout{Code: code, Config: c}
	assumed, err := l.settle(at, s, attends)
	if err != nil {
		return fail(err)
	}
	return l, assumed, nil
}

// openAILevels walks the blocks: it returns each level's channels and whether it has attention, and sets the number of blocks, the resampling,
// and scale and shift.
func openAILevels(at files, c *unet.Config) (levels []int, attends []bool, err error) {
	down, up := 0, 0
	for ; down < most; down++ {
		block := fmt.Sprintf("input_blocks.%d.0.", down+1)
		if !at.has(block+"in_layers.2.weight") && !at.has(block+"op.weight") {
			break
		}
	}
	per := 0 // blocks of the decoder in a level
	for ; up < most && at.has(fmt.Sprintf("output_blocks.%d.0.in_layers.2.weight", up)); up++ {
		for _, k := range []string{"1", "2"} {
			block := fmt.Sprintf("output_blocks.%d.%s.", up, k)
			conv := at.has(block + "conv.weight")
			if per == 0 && (conv || at.has(block+"in_layers.2.weight")) {
				per = up + 1
				if conv {
					c.Resample = unet.ResampleConv
				}
			}
		}
	}
	if per == 0 {
		per = up // one level
	}
	if up == 0 || per < 2 || up%per != 0 || down+1 != up {
		return nil, nil, fmt.Errorf("its %d blocks of the encoder (input_blocks) and %d of the decoder (output_blocks, of which %d are in a level) do not make the levels of a U-Net: blocks are missing",
			down+1, up, per)
	}
	c.Blocks = per - 1
	i := 1
	for level := range up / per {
		for j := range c.Blocks {
			block := fmt.Sprintf("input_blocks.%d.", i)
			out, err := channels(at, block+"0.in_layers.2.weight")
			if err != nil {
				return nil, nil, err
			}
			if j == 0 {
				levels = append(levels, out)
				attends = append(attends, at.has(block+"1.qkv.weight"))
			}
			if level == 0 && j == 0 {
				c.ScaleShift = at.size(block+"0.emb_layers.1.weight", 0) == 2*out
			}
			i++
		}
		i++ // the one that halves
	}
	return levels, attends, nil
}

// settle decides what shapes do not show: the image size, the heads, and the order of queries, keys and values.
func (l *Layout) settle(at files, s Settings, attends []bool) (assumed []string, err error) {
	c := &l.Config
	assume := func(format string, args ...any) { assumed = append(assumed, fmt.Sprintf(format, args...)) }
	half := c.EmbeddingChannels == 2*c.Channels
	if c.Resolution = s.ImageSize; c.Resolution == 0 {
		for _, known := range sizes {
			if slices.Equal(known.mult, c.Mult) && known.half == half {
				c.Resolution = known.side
				assume("images of %d×%d pixels", known.side, known.side)
			}
		}
	}
	if c.Resolution == 0 {
		return nil, unknown{"the image size is not in the weights, and no published model has levels with channels " + fmt.Sprint(c.Mult), "image_size"}
	}
	for level, is := range attends {
		if is {
			c.Attention = append(c.Attention, c.Resolution>>level)
		}
	}
	published := l.Code != ConsistencyModels && c.OutChannels == 2*c.InChannels // guided-diffusion's published models have learned variances
	switch {
	case s.HeadDim > 0:
		c.HeadDim = s.HeadDim
	case s.Heads > 0:
		c.Heads = s.Heads
	case published && c.Channels == 256 && slices.Equal(c.Mult, []int{1, 1, 2, 3, 4}): // 128x128_diffusion.pt
		c.Heads = 4
		assume("4 attention heads")
	default:
		c.HeadDim = 64
		mid := at.size("middle_block.1.norm.weight", 0)
		if mid%64 != 0 {
			return nil, unknown{fmt.Sprintf("the number of attention heads is not in the weights, and %d channels are not divisible into heads of 64 as in the published models", mid), "num_heads"}
		}
		assume("attention heads of 64 channels")
	}
	if l.Code == ConsistencyModels {
		if s.NewOrder != nil && !*s.NewOrder {
			return nil, errors.New("use_new_attention_order false: openai/consistency_models has one order, whatever this flag says; leave it out")
		}
		return assumed, nil
	}
	if s.NewOrder != nil && *s.NewOrder || s.NewOrder == nil && l.guided64() {
		l.Code = GuidedDiffusionNew
	}
	if s.NewOrder == nil {
		assume("use_new_attention_order %t", l.Code == GuidedDiffusionNew)
	}
	return assumed, nil
}

// guided64 reports whether the network is that of guided-diffusion's 64x64_diffusion.pt.
func (l Layout) guided64() bool {
	c := l.Config
	return l.Code != ConsistencyModels && c.OutChannels == 2*c.InChannels && c.Channels == 192 && c.Blocks == 3 && c.Classes == 1000 &&
		slices.Equal(c.Mult, []int{1, 2, 3, 4})
}

// Cosine reports whether the published model with this network has the cosine schedule, and not the linear one as all others of
// guided-diffusion.
func (l Layout) Cosine() bool { return l.guided64() }
