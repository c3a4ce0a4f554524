package unet

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// two is a small configuration that tests vary.
const two = `"block_out_channels": [32, 64], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
	"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]`

// What a file cannot ask for is refused with the key's name, and what is there instead.
func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct{ keys, want string }{
		{`nonsense`, "invalid character"},
		{`"_class_name": "UNet2DModel"`, `_class_name: want UNet2DConditionModel, got "UNet2DModel"`},
		{`"in_channels": 0`, "in_channels: want 1 to 1024, got 0"},
		{`"in_channels": -4`, "in_channels: want 1 to 1024, got -4"},
		{`"in_channels": "4"`, "in_channels: unexpected JSON string"},
		{`"in_channels": null`, "in_channels: want a value, got null"},
		{`"in_channels": 1e30`, "in_channels: unexpected JSON number"},
		{`"out_channels": 4096`, "out_channels: want 1 to 1024, got 4096"},
		{`"block_out_channels": []`, "block_out_channels: the list is empty"},
		{`"block_out_channels": [32, null]`, "block_out_channels: want a list without null"},
		{`"block_out_channels": [32, 64, 64]`, "down_block_types: want 3, one for each level of block_out_channels, got 2"},
		{`"block_out_channels": [1,1,1,1,1,1,1,1,1]`, "the number of block_out_channels: want 1 to 8, got 9"},
		{`"block_out_channels": [32, 65536]`, "block_out_channels: want 1 to 16384, got 65536"},
		{`"block_out_channels": [32, 48]`, "block_out_channels: 48 of level 1"},
		{`"block_out_channels": [33, 66], "norm_num_groups": 33, "attention_head_dim": 3`,
			"want an even number above 0, got 33"},
		{`"block_out_channels": [2, 2], "norm_num_groups": 2, "attention_head_dim": 1, "freq_shift": 1`,
			"want an even number above 2, got 2"},
		{`"down_block_types": ["DownBlock2D"]`, "down_block_types: want 2, one for each level of block_out_channels, got 1"},
		{`"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]`,
			`down_block_types: only DownBlock2D or CrossAttnDownBlock2D is supported, got "AttnDownBlock2D"`},
		{`"up_block_types": ["CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D"]`, `got "SimpleCrossAttnUpBlock2D"`},
		{`"up_block_types": ["UpBlock2D"]`, "up_block_types: want 2, one for each level of block_out_channels, got 1"},
		{`"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"`,
			`mid_block_type: only UNetMidBlock2DCrossAttn or UNetMidBlock2D`},
		{`"layers_per_block": 0`, "layers_per_block: want 1 to 8, got 0"},
		{`"layers_per_block": [1, 2, 3]`, "layers_per_block: want 2, one for each level of block_out_channels, got 3"},
		{`"layers_per_block": 1000000`, "layers_per_block: want 1 to 8"},
		{`"norm_num_groups": null`, "norm_num_groups: want a value, got null"},
		{`"norm_num_groups": 0`, "norm_num_groups: want 1 to 16384, got 0"},
		{`"norm_eps": 0`, "norm_eps: want a number in (0, 1), got 0"},
		{`"attention_head_dim": 5`, "attention_head_dim: the 64 channels of level 1 are not divisible by 5 heads"},
		{`"attention_head_dim": [5, 8], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]`, "the 32 channels of level 0"},
		{`"attention_head_dim": [8, 8, 8]`, "attention_head_dim: want 2, one for each level"},
		{`"attention_head_dim": -8`, "attention_head_dim: want 1 to 16384, got -8"},
		{`"num_attention_heads": 7`, "by 7 heads"},
		{`"cross_attention_dim": [768, 1024]`,
			"cross_attention_dim: only the same number for all levels is supported, got [768 1024]"},
		{`"cross_attention_dim": 1000000`, "cross_attention_dim: want 1 to 16384, got 1000000"},
		{`"transformer_layers_per_block": [1]`, ""},
		{`"transformer_layers_per_block": [1, 2, 3]`, "transformer_layers_per_block: want 2, one for each level"},
		{`"transformer_layers_per_block": -1`, "transformer_layers_per_block: want 0 to 32, got -1"},
		{`"transformer_layers_per_block": 33`, "transformer_layers_per_block: want 0 to 32, got 33"},
		{`"transformer_layers_per_block": []`, "transformer_layers_per_block: the list is empty"},
		{`"transformer_layers_per_block": [0, []]`, "transformer_layers_per_block: the list is empty"},
		{`"transformer_layers_per_block": [[1, 2]], "reverse_transformer_layers_per_block": 1`,
			"want one number, or one for each of the 2 residual blocks, in entry 0, got 2 numbers"},
		{`"transformer_layers_per_block": [0, [1, 2]]`, "set reverse_transformer_layers_per_block"},
		{`"transformer_layers_per_block": [0, [1, 2, 3]], "reverse_transformer_layers_per_block": [1, 1]`,
			"one for each of the 2 residual blocks, in entry 1, got 3 numbers"},
		{`"reverse_transformer_layers_per_block": [[1, 2], 0]`,
			"reverse_transformer_layers_per_block: want one number, or one for each of the 3 residual blocks, in entry 0, got 2"},
		{`"flip_sin_to_cos": 1`, "flip_sin_to_cos: unexpected JSON number"},
		{`"freq_shift": 2`, "freq_shift: want 0 to 1, got 2"},
		{`"time_cond_proj_dim": 3`, "time_cond_proj_dim: want at least 4 sines and cosines, got 3"},
		{`"time_cond_proj_dim": -256`, "time_cond_proj_dim: want 0 to 16384, got -256"},
		{`"time_embedding_dim": -1`, "time_embedding_dim: want 1 to"},
		{`"sample_size": [64, 64, 64]`, "sample_size: want a number or two, got 3"},
		{`"sample_size": 0`, "sample_size: want 1 to 65536, got 0"},
		{`"addition_embed_type": "image"`, `addition_embed_type: only text_time or null is supported, got "image"`},
		{`"addition_embed_type": "text_time"`, "addition_time_embed_dim: want an even number from 2 to 16384, got 0"},
		{`"addition_embed_type": "text_time", "addition_time_embed_dim": 8`,
			"projection_class_embeddings_input_dim: want 9 to 131072, got 0"},

		{`"act_fn": "gelu"`, `act_fn: only "silu" or "swish" is supported, the file has "gelu"`},
		{`"only_cross_attention": true`, "only_cross_attention: only false is supported, the file has true"},
		{`"only_cross_attention": [false, true]`,
			"only_cross_attention: only false is supported, the file has [false, true]"},
		{`"dual_cross_attention": true`, "dual_cross_attention: only false or null is supported, the file has true"},
		{`"class_embed_type": "projection"`, `class_embed_type: only null is supported, the file has "projection"`},
		{`"num_class_embeds": 1000`, "num_class_embeds: only null"},
		{`"encoder_hid_dim": 1280`, "encoder_hid_dim: only null"},
		{`"center_input_sample": true`, "center_input_sample"},
		{`"downsample_padding": 0`, "downsample_padding: only 1 is supported, the file has 0"},
		{`"mid_block_scale_factor": 1.5`, "mid_block_scale_factor"},
		{`"resnet_time_scale_shift": "scale_shift"`, "resnet_time_scale_shift"},
		{`"time_embedding_type": "fourier"`, "time_embedding_type"},
		{`"time_embedding_act_fn": "silu"`, "time_embedding_act_fn"},
		{`"timestep_post_act": "silu"`, "timestep_post_act"},
		{`"conv_in_kernel": 5`, "conv_in_kernel: only 3"},
		{`"conv_out_kernel": 1`, "conv_out_kernel: only 3"},
		{`"attention_type": "gated"`, "attention_type"},
		{`"class_embeddings_concat": true`, "class_embeddings_concat"},
		{`"block_out_channels": [16384, 16384], "cross_attention_dim": 16384`, "weights, the limit is 8589934592"},

		{`"only_cross_attention": [false, false], "mid_block_scale_factor": 1.0, "sample_size": null, "dropout": 0.1`, ""},
		{`"unknown": {"key": [null]}, "_diffusers_version": "0.1", "num_attention_heads": null, "class_embed_type": null`,
			""},
		{`"mid_block_type": null, "time_cond_proj_dim": null, "reverse_transformer_layers_per_block": null`, ""},
		{`"upcast_attention": null, "use_linear_projection": null`, ""}, // SDXL's file has the first
		{`"IN_CHANNELS": "another key"`, ""},
	} {
		t.Run(c.keys, func(t *testing.T) {
			text := "{" + two + ", " + c.keys + "}"
			config, err := ParseConfig([]byte(text))
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, config.Validate())
				return
			}
			require.ErrorContains(t, err, "unet: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestParseControlNetConfigRefuses(t *testing.T) {
	for _, c := range []struct{ keys, want string }{
		{`"_class_name": "UNet2DConditionModel"`, `_class_name: want ControlNetModel, got "UNet2DConditionModel"`},
		{`"global_pool_conditions": true`, "global_pool_conditions: only false is supported, the file has true"},
		{`"controlnet_conditioning_channel_order": "gbr"`,
			`controlnet_conditioning_channel_order: only rgb or bgr is supported, got "gbr"`},
		{`"mid_block_type": null`, `mid_block_type: only UNetMidBlock2DCrossAttn or UNetMidBlock2D is supported, got "none"`},
		{`"layers_per_block": [1, 2, 2, 2]`, "layers_per_block: want a single number, got 4"},
		{`"conditioning_embedding_out_channels": []`, "conditioning_embedding_out_channels: the list is empty"},
		{`"conditioning_embedding_out_channels": null`, "conditioning_embedding_out_channels: want a value, got null"},
		{`"conditioning_embedding_out_channels": [16, 0]`, "conditioning_embedding_out_channels: want 1 to 16384, got 0"},
		{`"conditioning_embedding_out_channels": [1,1,1,1,1,1,1,1,1]`,
			"the number of conditioning_embedding_out_channels: want 1 to 8, got 9"},
		{`"conditioning_channels": 0`, "conditioning_channels: want 1 to 1024, got 0"},
		{`"only_cross_attention": true`, "only_cross_attention: only false"},
		{`"block_out_channels": [320]`, "down_block_types: want 1, one for each level of block_out_channels, got 4"},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := ParseControlNetConfig([]byte("{" + c.keys + "}"))
			require.ErrorContains(t, err, "controlnet: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Without keys the configuration is the zero value's, which is UNet2DConditionModel's own.
func TestParseConfigDefaults(t *testing.T) {
	c, err := ParseConfig([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, Config{}.WithDefaults(), c)
	require.Equal(t, c, c.WithDefaults())
	require.Equal(t, Ints{1280}, c.CrossAttentionDim)
	n, err := ParseControlNetConfig([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, ControlNetConfig{}.WithDefaults(), n)

	c, err = ParseConfig([]byte(`{"num_attention_heads": [5, 10, 20, 20], "attention_head_dim": 3, "flip_sin_to_cos": false}`))
	require.NoError(t, err)
	require.Equal(t, Ints{5, 10, 20, 20}, c.AttentionHeadDim)
	require.True(t, bool(c.SinFirst))
}

// What cannot work is refused before anything is built.
func TestNewRefuses(t *testing.T) {
	c := SD15()
	c.NormNumGroups = 7
	_, err := New(c, torch.CPU, torch.Float32, 1)
	require.ErrorContains(t, err, "unet: block_out_channels: 320 of level 0 is not divisible by norm_num_groups 7")
	n := ControlNet15()
	n.ChannelOrder = "bw"
	_, err = NewControlNet(n, torch.CPU, torch.Float32, 1)
	require.ErrorContains(t, err, "controlnet: controlnet_conditioning_channel_order")
}

// Whatever the file says: an error, or a configuration that is valid and that comes back from what we write of it.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{}`), false)
	odd := Config{Encoder: Encoder{MidBlockType: NoMid, SinFirst: true}}
	for _, c := range []Config{SD15(), LCM15(), SD21(), SDXL(), SSD1B(), odd} {
		b, err := json.Marshal(c)
		require.NoError(f, err)
		f.Add(b, false)
	}
	b, err := json.Marshal(ControlNetXL())
	require.NoError(f, err)
	f.Add(b, true)
	f.Add([]byte("{"+two+`, "transformer_layers_per_block": [[1, 2], 1e9], "sample_size": [8, 8]}`), false)
	f.Fuzz(func(t *testing.T, data []byte, control bool) {
		if control {
			c, err := ParseControlNetConfig(data)
			if err != nil {
				return
			}
			require.Positive(t, nn.Count(ControlNetShapes(c)))
			written, err := json.Marshal(c)
			require.NoError(t, err)
			again, err := ParseControlNetConfig(written)
			require.NoError(t, err)
			require.Equal(t, c, again)
			return
		}
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		require.Positive(t, nn.Count(Shapes(c)))
		written, err := json.Marshal(c)
		require.NoError(t, err)
		again, err := ParseConfig(written)
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}
