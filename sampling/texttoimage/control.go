package texttoimage

import (
	"fmt"
	"image"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
)

// Control is a ControlNet and its control image.
type Control struct {
	Net        *unet.ControlNet
	Image      image.Image // resized to the size that is generated
	Scale      float64     // 0: 1
	Start, End float64     // the fraction of the steps in which it is active (control_guidance_start and _end); End 0: 1
	Guess      bool        // diffusers' guess_mode: only the conditional pass uses it, and its residuals are smaller at the first levels
}

// together returns an error if a ControlNet is incompatible with a network.
func together(control, network unet.Encoder) error {
	level := func(list unet.Ints, i int) int { return list[min(i, len(list)-1)] } // a single number is for all levels
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

// control sets c.Control to the sum of the ControlNets' residuals.
func (net *network) control(s *torch.Scope, c *models.Cond, in, at *torch.Tensor, i int) {
	steps := float64(len(net.p.Timesteps))
	for j, k := range net.p.o.Controls {
		if float64(i)/steps < k.Start || float64(i+1)/steps > k.End {
			continue
		}
		x, told := in, *c
		told.Control = nil
		guess := k.Guess && net.p.cfg
		if guess { // for the conditional pass only
			half := func(t *torch.Tensor) *torch.Tensor {
				if t == nil {
					return nil
				}
				return t.Narrow(s, 0, net.n, net.n)
			}
			x, told.Text, told.Pooled, told.Sizes = half(x), half(told.Text), half(told.Pooled), half(told.Sizes)
		}
		add := k.Net.Forward(s, x, at, told, net.controls[j], k.Scale, k.Guess)
		if guess {
			both := func(r *torch.Tensor) *torch.Tensor { return torch.Cat(s, []*torch.Tensor{torch.ZerosLike(s, r), r}, 0) }
			for m, r := range add.Down {
				add.Down[m] = both(r)
			}
			add.Mid = both(add.Mid)
		}
		if c.Control == nil {
			c.Control = add
			continue
		}
		for m, r := range add.Down {
			c.Control.Down[m] = c.Control.Down[m].Add(s, r)
		}
		c.Control.Mid = c.Control.Mid.Add(s, add.Mid)
	}
}
