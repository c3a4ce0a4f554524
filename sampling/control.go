package sampling

import (
	"fmt"
	"image"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
)

// Control is a ControlNet and the picture that it sees.
type Control struct {
	Net        *unet.ControlNet
	Image      image.Image // of the picture's size
	Scale      float64     // 0: 1
	Start, End float64     // the part of the steps in which it acts; End 0: 1
	Guess      bool        // it acts without the text's help, less at the first levels; the pass without text goes without it
}

// together tells whether a ControlNet can be added to a network.
func together(control, network unet.Encoder) error {
	level := func(list unet.Ints, i int) int { return list[min(i, len(list)-1)] } // one number stands for all
	for i := range network.BlockOutChannels {
		if c, n := level(control.LayersPerBlock, i), level(network.LayersPerBlock, i); c != n {
			return fmt.Errorf("layers_per_block: want %d, got %d", n, c)
		}
	}
	switch c, n := control.CrossAttentionDim[0], network.CrossAttentionDim[0]; {
	case !slices.Equal(control.BlockOutChannels, network.BlockOutChannels):
		return fmt.Errorf("block_out_channels: want %v, got %v", network.BlockOutChannels, control.BlockOutChannels)
	case c != n:
		return fmt.Errorf("cross_attention_dim: want %d, got %d", n, c)
	case control.AdditionEmbedType != "" && network.AdditionEmbedType == "":
		return fmt.Errorf("addition_embed_type: want none, got %s", quote.Quoted(control.AdditionEmbedType))
	}
	return nil
}

// control adds what the ControlNets say.
func (net *network) control(s *torch.Scope, c *unet.Cond, in, at *torch.Tensor, i int) {
	steps := float64(len(net.plan.Timesteps))
	for j, k := range net.Controls {
		if float64(i)/steps < k.Start || float64(i+1)/steps > k.End {
			continue
		}
		x, told := in, *c
		told.Down, told.Mid = nil, nil
		guess := k.Guess && net.cfg
		if guess { // for the pass with the text alone
			half := func(t *torch.Tensor) *torch.Tensor {
				if t == nil {
					return nil
				}
				return t.Narrow(s, 0, net.n, net.n)
			}
			x, told.Text, told.Pooled, told.Sizes = half(x), half(told.Text), half(told.Pooled), half(told.Sizes)
		}
		down, mid := k.Net.Forward(s, x, at, told, net.controls[j], k.Scale, k.Guess)
		all := append(down, mid)
		if guess {
			for m, r := range all {
				all[m] = torch.Cat(s, []*torch.Tensor{torch.ZerosLike(s, r), r}, 0)
			}
		}
		if c.Down == nil {
			c.Down, c.Mid = all[:len(all)-1], all[len(all)-1]
			continue
		}
		for m := range c.Down {
			c.Down[m] = c.Down[m].Add(s, all[m])
		}
		c.Mid = c.Mid.Add(s, all[len(all)-1])
	}
}
