package original

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch/nn"
)

// inferEDM finds the configuration of a SongUNet or DhariwalUNet.
func inferEDM(src nn.Source) (Layout, error) {
	at := files{src, ""}
	if !hasEDM(src, "") {
		at.prefix = edmPrefix
	}
	l := Layout{Code: EDM, Prefix: at.prefix}
	fail := func(err error) (Layout, error) { return Layout{}, err }
	c := unet.Config{Resolution: side(at), Resample: unet.ResampleResidual, Embedding: unet.Positional}
	first := fmt.Sprintf("enc.%dx%d_", c.Resolution, c.Resolution)
	for _, not := range []string{"aux_down", "aux_skip"} { // at the second level
		if half := c.Resolution / 2; at.has(fmt.Sprintf("enc.%dx%d_%s.resample_filter", half, half, not)) || at.has(fmt.Sprintf("enc.%dx%d_%s.weight", half, half, not)) {
			return fail(errors.New("a SongUNet with encoder_type skip is not supported: want standard or residual"))
		}
	}
	adm := at.has("out_conv.weight")
	out := "out_conv.weight"
	if !adm {
		out = fmt.Sprintf("dec.%dx%d_aux_conv.weight", c.Resolution, c.Resolution)
	}
	waves := 1
	if at.has("map_noise.freqs") {
		c.Embedding, waves = unet.Fourier, 2
	}
	base, err := embedding(at, "map_layer0.weight", "map_layer1.weight", waves)
	if err != nil {
		return fail(err)
	}
	if c.Channels, err = channels(at, first+"conv.weight"); err != nil {
		return fail(err)
	}
	if base != c.Channels {
		c.EmbeddingChannels = base
	}
	c.InChannels, c.OutChannels = at.size(first+"conv.weight", 1), at.size(out, 0)
	if c.OutChannels == 0 {
		return fail(want(at, out, "a convolution's [out, in, 3, 3]"))
	}
	c.Classes, c.Augment = at.size("map_label.weight", 1), at.size("map_augment.weight", 1)
	c.LabelsFirst = c.Classes > 0 && !adm
	var levels []int
	for res := c.Resolution; res > 0 && len(levels) < 10; res /= 2 {
		prefix := fmt.Sprintf("enc.%dx%d_", res, res)
		if !at.has(prefix + "block0.conv0.weight") {
			break
		}
		ch, err := channels(at, prefix+"block0.conv0.weight")
		if err != nil {
			return fail(err)
		}
		levels = append(levels, ch)
		if at.has(prefix + "block0.qkv.weight") {
			c.Attention = append(c.Attention, res)
		}
		n := 0
		for ; n < most && at.has(fmt.Sprintf("%sblock%d.conv0.weight", prefix, n)); n++ {
		}
		c.Blocks = max(c.Blocks, n)
		if len(levels) == 2 {
			c.ResidualInput = at.has(prefix + "aux_residual.weight")
			if at.has(fmt.Sprintf("dec.%dx%d_aux_conv.weight", res, res)) {
				return fail(errors.New("a SongUNet with decoder_type skip is not supported: want standard"))
			}
			if taps := at.size(prefix+"down.conv0.resample_filter", 3); taps != 2 {
				if taps != 4 {
					return fail(want(at, prefix+"down.conv0.resample_filter", "[1, 1, 2, 2] or [1, 1, 4, 4]"))
				}
				c.Filter = []float64{1, 3, 3, 1}
			}
		}
	}
	if len(levels) == 0 {
		return fail(want(at, first+"block0.conv0.weight", ""))
	}
	if c.Mult, err = multiples(levels, c.Channels); err != nil {
		return fail(err)
	}
	c.ScaleShift = adm
	affine := first + "block0.affine.weight"
	if scale := at.size(affine, 0) == 2*levels[0]; scale != adm {
		return fail(fmt.Errorf("tensor %s has shape %v, which is not of a %s", quote.Text(at.prefix+affine), at.dims(affine), map[bool]string{true: "DhariwalUNet", false: "SongUNet"}[adm]))
	}
	l.Config = c
	l.Config = l.fixed(c)
	return l, nil
}
