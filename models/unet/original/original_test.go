package original

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/unet"
)

// Files that lack tensors, have others or other shapes are refused with the tensor's own name; what is of another kind is told so.
func TestRefuses(t *testing.T) {
	lists := published(t)
	const lsun, song, adm = "consistency_lsun256", "edm_cifar10_ve", "edm_imagenet64"
	for _, c := range []struct {
		list   string
		change func(p plan)
		want   string
	}{
		{lsun, func(p plan) { delete(p, "input_blocks.1.0.in_layers.0.bias") }, "1 missing: input_blocks.1.0.in_layers.0.bias"},
		{lsun, func(p plan) { p["extra.weight"] = []int{3} }, "1 unexpected: extra.weight"},
		{lsun, func(p plan) { p["out.2.bias"] = []int{4} }, "out.2.bias (want [3], got [4])"},
		{lsun, func(p plan) { delete(p, "out.2.weight") }, "1 missing: out.2.weight"},
		{lsun, func(p plan) { delete(p, "time_embed.0.weight") }, "time_embed.0.weight is missing"},
		{lsun, func(p plan) { p["time_embed.0.weight"] = []int{1024, 250} }, "time_embed.0.weight has shape [1024 250]"},
		{lsun, func(p plan) { p["time_embed.2.weight"] = []int{1024, 1020} }, "time_embed.2.weight has shape [1024 1020], expected [1024, 1024]"},
		{lsun, func(p plan) { p["input_blocks.0.0.weight"] = []int{} }, "input_blocks.0.0.weight"},
		{lsun, func(p plan) { p["input_blocks.4.0.in_layers.2.weight"] = []int{300, 256, 3, 3} }, "300 channels"},
		{lsun, func(p plan) { delete(p, "input_blocks.17.0.in_layers.2.weight") }, "blocks are missing"},
		{lsun, func(p plan) { delete(p, "output_blocks.17.0.in_layers.2.weight") }, "blocks are missing"},
		{lsun, func(p plan) { p["input_blocks.0.0.weight"] = []int{256, 6, 3, 3} }, "super-resolution"},
		{lsun, func(p plan) {
			for name := range p {
				if len(name) > 13 && name[:13] == "output_blocks" {
					delete(p, name)
				}
			}
		}, "classifier"},
		{lsun, func(p plan) {
			delete(p, "middle_block.1.qkv.weight")
		}, "middle_block.1.qkv.weight"},
		{song, func(p plan) { delete(p, "model.enc.16x16_aux_residual.bias") }, "model.enc.16x16_aux_residual.bias"},
		{song, func(p plan) { p["model.enc.16x16_aux_skip.weight"] = []int{1} }, "encoder_type skip"},
		{song, func(p plan) { p["model.dec.16x16_aux_conv.weight"] = []int{1} }, "decoder_type skip"},
		{song, func(p plan) { p["model.enc.16x16_down.conv0.resample_filter"] = []int{1, 1, 6, 6} }, "resample_filter has shape [1 1 6 6]"},
		{song, func(p plan) { p["model.map_layer0.weight"] = []int{512, 128} }, "model.map_layer0.weight has shape [512 128]"},
		{song, func(p plan) { p["u"] = []int{1001} }, "1 unexpected: u"},
		{adm, func(p plan) { delete(p, "model.out_conv.weight") }, "aux_conv.weight is missing"},
		{adm, func(p plan) { p["model.map_label.weight"] = []int{768, 10} }, ""},
		{adm, func(p plan) { p["model.map_label.weight"] = []int{760, 10} }, "model.map_label.weight (want [768 10], got [760 10])"},
	} {
		t.Run(fmt.Sprint(c.list, " ", c.want), func(t *testing.T) {
			p := planOf(lists[c.list])
			c.change(p)
			code, ok, err := Recognize(p)
			require.True(t, ok)
			if err == nil {
				_, _, err = Infer(p, code, Settings{})
			}
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	for _, p := range []plan{{}, {"conv_in.weight": {3}}, {"time_embed.0.weight": {3}}, {
		"time_embed.0.weight": {1}, "input_blocks.0.0.weight": {1}, "middle_block.1.qkv.weight": {1, 1, 1, 1}, "input_blocks.1.1.transformer_blocks.0.norm1.weight": {1},
	}} {
		_, ok, err := Recognize(p)
		require.NoError(t, err)
		require.False(t, ok)
	}
}

// What the weights do not show is asked for, by the name of the code's flag, where the published models give no answer.
func TestUnknown(t *testing.T) {
	p := planOf(published(t)["consistency_imagenet64"])
	_, _, err := Infer(p, ConsistencyModels, Settings{})
	require.NoError(t, err)
	l, err := For(GuidedDiffusion, unet.Config{Resolution: 16, Channels: 32, Mult: []int{1, 3}, Blocks: 1, NormGroups: 32, HeadDim: 32})
	require.NoError(t, err)
	small := planOf(l.Shapes())
	_, _, err = Infer(small, GuidedDiffusion, Settings{})
	require.Equal(t, "image_size", Unknown(err))
	_, _, err = Infer(small, GuidedDiffusion, Settings{ImageSize: 16})
	require.Equal(t, "num_heads", Unknown(err))
	got, assumed, err := Infer(small, GuidedDiffusion, Settings{ImageSize: 16, HeadDim: 32})
	require.NoError(t, err)
	require.Equal(t, l.Config, got.Config)
	require.Len(t, assumed, 1) // the order
	_, _, err = Infer(p, ConsistencyModels, Settings{NewOrder: new(bool)})
	require.ErrorContains(t, err, "use_new_attention_order")
	require.Empty(t, Unknown(err))
}

// A network that a code does not have is refused by the fields that differ.
func TestFor(t *testing.T) {
	for _, c := range []struct {
		code   Code
		config unet.Config
		want   string
	}{
		{ConsistencyModels, unet.ADMImageNet64(), ""},
		{ConsistencyModels, unet.DDPMPP(32, 3, 128, []int{2, 2, 2}, 4, 16), "skip_scale"},
		{GuidedDiffusion, unet.Config{NormGroups: 32, Until: true}, "until true"},
		{EDM, unet.DDPMPP(32, 3, 128, []int{2, 2, 2}, 4, 16), "sin_first false"},
		{EDM, unet.ADMImageNet64(), "norm_groups 32"},
		{"x", unet.ADMImageNet64(), `"x"`},
	} {
		_, err := Of(c.code, c.config)
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.want)
	}
	_, err := Of(EDM, 3)
	require.ErrorContains(t, err, "int")
}
