package unet2d

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/unet"
)

// Configurations that are invalid, or that UNet2DModel builds and this package does not, are errors that name the key and its value.
func TestUnsupported(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{`, "unexpected end"},
		{`[]`, "want an object, got a JSON array"},
		{`{"sample_size": 32, "colour": 3}`, `unknown field "colour"`},
		{`{"sample_size": 32, "_class_name": "UNet2DConditionModel"}`, "_class_name: only UNet2DModel is supported, the file has UNet2DConditionModel"},
		{`{}`, "sample_size: null"},
		{`{"sample_size": 0}`, "sample_size: want a positive number, got 0"},
		{`{"sample_size": [32]}`, "sample_size: want a positive number or a pair of them, got [32]"},
		{`{"sample_size": [32, -8]}`, "got [32,-8]"},
		{`{"sample_size": 36}`, "image size 36×36: want a multiple of 8"},
		{`{"sample_size": 32, "block_out_channels": [32, 64]}`, "want one entry a level in each, got 4, 4 and 2"},
		{`{"sample_size": 32, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"]}`, "down: CrossAttnDownBlock2D is not supported"},
		{`{"sample_size": 32, "up_block_types": ["UpBlock2D", "KUpBlock2D", "UpBlock2D", "UpBlock2D"]}`, "up: KUpBlock2D is not supported"},
		{`{"sample_size": 32, "time_embedding_type": "learned", "num_train_timesteps": 10}`, "time_embedding_type: only positional or fourier is supported, the file has learned"},
		{`{"sample_size": 32, "freq_shift": 0.5}`, "freq_shift: only an integer"},
		{`{"sample_size": 32, "freq_shift": 400}`, "freq_shift: want 0 to 111"},
		{`{"sample_size": 32, "mid_block_type": "UNetMidBlock2DCrossAttn"}`, "mid_block_type: only UNetMidBlock2D or null"},
		{`{"sample_size": 32, "mid_block_scale_factor": 0}`, "mid_block_scale_factor: only a positive number"},
		{`{"sample_size": 32, "downsample_padding": 2}`, "downsample_padding: only 0 or 1"},
		{`{"sample_size": 32, "downsample_type": "fir"}`, `down_type: want conv or resnet, got "fir"`},
		{`{"sample_size": 32, "act_fn": "mish"}`, "act_fn: only silu is supported, the file has mish"},
		{`{"sample_size": 32, "resnet_time_scale_shift": "spatial"}`, "resnet_time_scale_shift: only default or scale_shift"},
		{`{"sample_size": 32, "class_embed_type": "identity"}`, "class_embed_type: only timestep or null is supported, the file has identity"},
		{`{"sample_size": 32, "class_embed_type": "timestep"}`, "class_embed_type: timestep needs num_class_embeds"},
		{`{"sample_size": 32, "num_class_embeds": 0}`, "num_class_embeds: only a positive number or null"},
		{`{"sample_size": 32, "norm_num_groups": 0, "attn_norm_num_groups": 0, "num_class_embeds": 0, "attention_head_dim": 0}`, "config: norm_num_groups: only"},
		{`{"sample_size": 32, "attention_head_dim": -1}`, "attention_head_dim: only a positive number or null"},
		{`{"sample_size": 32, "attention_head_dim": 9}`, "head_dim: attention over 448 channels needs a divisor of them, got 9"},
		{`{"sample_size": 32, "norm_num_groups": null}`, "norm_num_groups: null is only for blocks"},
		{`{"sample_size": 32, "norm_num_groups": 33}`, "a group norm over 224 channels"},
		{`{"sample_size": 32, "attn_norm_num_groups": 33}`, "a group norm over 896 channels"},
		{`{"sample_size": 32, "dropout": 1}`, "dropout: want a probability in [0, 1), got 1"},
		{`{"sample_size": 32, "norm_eps": 0}`, ""}, // 0 is the default here
		{`{"sample_size": 4096, "layers_per_block": 1000}`, "layers: want 1 to 64, got 1000"},
		{`{"sample_size": 32, "block_out_channels": [16384, 16384, 16384, 16384], "layers_per_block": 64}`, "the limit is"},
		{`{"sample_size": 16, "in_channels": 1, "down_block_types": ["SkipDownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [32]}`, "in_channels: want 3 for blocks with an input image, got 1"},
		{`{"sample_size": 16, "out_channels": 1, "down_block_types": ["DownBlock2D"], "up_block_types": ["SkipUpBlock2D"], "block_out_channels": [32]}`, "out_channels: want 3 for blocks with an output image, got 1"},
		{`{"sample_size": 16, "down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D"], "block_out_channels": [32, 32, 32]}`, "down: level 1 has SkipDownBlock2D after DownBlock2D"},
		{`{"sample_size": 16, "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["SkipUpBlock2D", "UpBlock2D"], "block_out_channels": [32, 32]}`, "up: level 1 has UpBlock2D after SkipUpBlock2D"},
		{`{"sample_size": 32, "down_block_types": ["` + "\x1b" + `[31m", "DownBlock2D", "DownBlock2D", "DownBlock2D"]}`, ""},
	} {
		_, err := FromDiffusers([]byte(c.config))
		if c.want == "" {
			if err != nil {
				require.NotContains(t, err.Error(), "\x1b")
			}
			continue
		}
		require.ErrorContains(t, err, c.want, c.config)
	}
}

// The published networks have exactly the tensors that diffusers' class has with their configurations, also as networks of package unet,
// which has all of them but NCSN++.
func TestPublished(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "published.json")) // of scripts/golden/models/unet2d/published.py
	require.NoError(t, err)
	var golden struct {
		Models map[string]struct {
			Config           json.RawMessage
			Tensors, Weights int
			SHA256           string
		}
	}
	require.NoError(t, json.Unmarshal(data, &golden))
	require.Len(t, golden.Models, 5)
	for name, m := range golden.Models {
		c, err := FromDiffusers(m.Config)
		require.NoError(t, err, name)
		require.Len(t, c.Shapes(), m.Tensors, name)
		n := 0
		for _, p := range c.Shapes() {
			size := 1
			for _, d := range p.Dims {
				size *= d
			}
			n += size
		}
		require.Equal(t, m.Weights, n, name)
		require.Equal(t, m.SHA256, layout(c.Shapes()), name)
		as, err := unet.FromDiffusers(m.Config)
		if strings.Contains(name, "ncsnpp") {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, m.SHA256, layout(as.Shapes()), name)
	}
	require.Equal(t, 35746307, golden.Models["google/ddpm-cifar10-32"].Weights)
	require.Equal(t, 541+22*4, golden.Models["openai/diffusers-cd_imagenet64_l2"].Tensors, "OpenAI's file has one tensor for queries, keys and values")
	require.Equal(t, 566+16*4, golden.Models["openai/diffusers-cd_bedroom256_l2"].Tensors)
}
