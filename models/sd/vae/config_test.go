package vae

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// What a file cannot ask for is refused with the key's name, and what is there instead.
func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct{ keys, want string }{
		{`nonsense`, "want a JSON object: invalid character"},
		{`"_class_name": "AutoencoderTiny"`, `_class_name: only "AutoencoderKL" is supported, the file has "AutoencoderTiny"`},
		{`"in_channels": 0`, "in_channels is 0: want 1 to 64"},
		{`"in_channels": "3"`, `in_channels: want an integer, got "3"`},
		{`"in_channels": null`, "in_channels: want an integer, got null"},
		{`"out_channels": -3`, "out_channels is -3: want 1 to 64"},
		{`"latent_channels": 1e30`, "latent_channels: want an integer, got 1e30"},
		{`"latent_channels": 257`, "latent_channels is 257: want 1 to 256"},
		{`"block_out_channels": []`, "the length of block_out_channels is 0: want 1 to 8"},
		{`"block_out_channels": null`, "block_out_channels: want a list of integers, got null"},
		{`"block_out_channels": [64, null]`, "block_out_channels: want a list of integers, got [64, null]"},
		{`"block_out_channels": [64, 0]`, "a number of block_out_channels is 0: want 1 to 8192"},
		{`"block_out_channels": [64, 48]`, "block_out_channels has 48, which is not divisible by norm_num_groups 32"},
		{`"block_out_channels": [1,1,1,1,1,1,1,1,1]`, "the length of block_out_channels is 9: want 1 to 8"},
		{`"block_out_channels": [` + strings.Repeat("0,", 1000) + `0]`, "the length of block_out_channels is 1001: want 1 to 8"},
		{`"block_out_channels": [8192, 8192], "layers_per_block": 4`, "weights, the limit is 4294967296"},
		{`"layers_per_block": 17`, "layers_per_block is 17: want 1 to 16"},
		{`"layers_per_block": [2, 2]`, "layers_per_block: want an integer, got [2, 2]"},
		{`"norm_num_groups": 0`, "norm_num_groups is 0: want 1 to 8192"},
		{`"scaling_factor": 0`, "scaling_factor is 0: want 1e-6 to 1e6"},
		{`"scaling_factor": -1`, "scaling_factor is -1: want 1e-6 to 1e6"},
		{`"scaling_factor": 1e99`, "scaling_factor is 1e+99"},
		{`"scaling_factor": 1e999`, "scaling_factor: want a number, got 1e999"},
		{`"shift_factor": "0"`, `shift_factor: want a number, got "0"`},
		{`"shift_factor": -1e7`, "shift_factor is -1e+07: want a magnitude of at most 1e6"},
		{`"sample_size": 0`, "sample_size is 0: want 1 to 65536"},
		{`"sample_size": []`, "sample_size: want an integer, or a list of them, got []"},
		{`"sample_size": {}`, "sample_size: want an integer, or a list of them, got {}"},
		{`"force_upcast": 1`, "force_upcast: want true or false, got 1"},
		{`"use_quant_conv": null`, "use_quant_conv: want true or false, got null"},
		{`"act_fn": "gelu"`, `act_fn: only "silu" or "swish" is supported, the file has "gelu"`},
		{`"latents_mean": [0.5]`, "latents_mean: only null is supported, the file has [0.5]"},
		{`"latents_std": [0.5]`, "latents_std: only null is supported, the file has [0.5]"},
		{`"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]`,
			`down_block_types: want DownEncoderBlock2D for each of 2 levels, got ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]`},
		{`"down_block_types": ["DownEncoderBlock2D"]`, "down_block_types: want DownEncoderBlock2D for each of 2 levels"},
		{`"up_block_types": ["UpDecoderBlock2D"]`, "up_block_types: want UpDecoderBlock2D for each of 2 levels"},
		{`"up_block_types": 2`, "up_block_types: want a list of names, got 2"},

		{`"act_fn": "swish", "shift_factor": null, "latents_mean": null, "sample_size": [64, 32]`, ""},
		{`"unknown": {"key": [null]}, "_diffusers_version": "0.1", "IN_CHANNELS": "another key"`, ""},
	} {
		text := `{"block_out_channels": [32, 64], ` + c.keys + "}"
		if strings.HasPrefix(c.keys, `"block_out_channels"`) {
			text = "{" + c.keys + "}"
		}
		_, err := ParseConfig([]byte(text))
		if c.want == "" {
			require.NoError(t, err, c.keys)
			continue
		}
		require.ErrorContains(t, err, "vae config: ", c.keys)
		require.ErrorContains(t, err, c.want)
		require.Less(t, len(err.Error()), 500)
	}
	_, err := ParseConfig([]byte("null"))
	require.ErrorContains(t, err, "want a JSON object, got null")
}

func TestParseTinyConfigRefuses(t *testing.T) {
	for keys, want := range map[string]string{
		`nonsense`:                                                      "want a JSON object: invalid character",
		`"_class_name": "AutoencoderKL"`:                                `_class_name: only "AutoencoderTiny" or "AutoencoderTinyPool" is supported`,
		`"latent_channels": 0`:                                          "latent_channels is 0: want 1 to 256",
		`"in_channels": 65`:                                             "in_channels is 65: want 1 to 64",
		`"encoder_block_out_channels": []`:                              "the length of encoder_block_out_channels is 0: want 1 to 8",
		`"encoder_block_out_channels": [64, 64]`:                        "num_encoder_blocks has 4 numbers: want one for each of 2 levels",
		`"num_decoder_blocks": [3, 3, 3]`:                               "num_decoder_blocks has 3 numbers: want one for each of 4 levels",
		`"num_decoder_blocks": [3, 3, 3, 17]`:                           "a number of num_decoder_blocks is 17: want 0 to 16",
		`"num_decoder_blocks": [3, 3, 3, -1]`:                           "a number of num_decoder_blocks is -1: want 0 to 16",
		`"decoder_block_out_channels": [8,8,8,9]`:                       "decoder_block_out_channels is [8 8 8 9]: want the same number in all levels",
		`"decoder_block_out_channels": [0,0,0,0]`:                       "a number of decoder_block_out_channels is 0: want 1 to 1024",
		`"scaling_factor": 0`:                                           "scaling_factor is 0: want 1e-6 to 1e6",
		`"act_fn": "silu"`:                                              `act_fn: only "relu" is supported, the file has "silu"`,
		`"upsample_fn": "bilinear"`:                                     `upsample_fn: only "nearest" is supported`,
		`"upsampling_scaling_factor": 3`:                                "upsampling_scaling_factor: only 2 is supported, the file has 3",
		`"shift_factor": 0.5`:                                           "shift_factor: only 0 or 0.0 or null is supported, the file has 0.5",
		`"pool": 1`:                                                     "pool: want true or false, got 1",
		`"encoder_block_out_channels": [64], "num_encoder_blocks": [1]`: "the encoder has 1 levels and the decoder 4",
		`"encoder_block_out_channels": [1024,1024,1024,1024,1024,1024,1024,1024],
			"num_encoder_blocks": [16,16,16,16,16,16,16,16], "decoder_block_out_channels": [1024,1024,1024,1024,1024,1024,1024,1024],
			"num_decoder_blocks": [16,16,16,16,16,16,16,16]`: "weights, the limit is",
	} {
		_, err := ParseTinyConfig([]byte("{" + keys + "}"))
		require.ErrorContains(t, err, "tiny vae config: ", keys)
		require.ErrorContains(t, err, want)
	}
}

// Keys that are absent have the defaults of diffusers' classes.
func TestParseConfigDefaults(t *testing.T) {
	c, err := ParseConfig([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, Config{Channels: []int{64}, Layers: 1, SampleSize: 32}.WithDefaults(), c)
	tiny, err := ParseTinyConfig([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, TAESD(), tiny)
	require.Equal(t, TinyConfig{}.WithDefaults(), tiny)

	// The file of Stable Diffusion 1, which is from before some keys.
	c, err = ParseConfig([]byte(`{"_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
		"block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D",
		"DownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
		"norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D",
		"UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}`))
	require.NoError(t, err)
	require.Equal(t, SD15(), c)
}

// What cannot work is refused before anything is built.
func TestNewRefuses(t *testing.T) {
	c := SD15()
	c.Groups = 7
	_, err := New(c, torch.CPU, torch.Float32, 1)
	require.ErrorContains(t, err, "vae config: block_out_channels has 128, which is not divisible by norm_num_groups 7")
	tiny := TAESD()
	tiny.DecoderBlocks = nil
	tiny.DecoderWidths = []int{64, 64, 64}
	_, err = NewTiny(tiny, torch.CPU, torch.Float32, 1)
	require.ErrorContains(t, err, "num_decoder_blocks has 4 numbers: want one for each of 3 levels")
}

// diffusers reads what we write, and finds the same weights in it.
func TestDiffusersReadsConfigs(t *testing.T) {
	if testing.Short() {
		t.Skip("importing diffusers takes seconds")
	}
	python := torchtest.Python(t, "diffusers")
	dir := t.TempDir()
	odd := Config{Channels: []int{4, 8}, Groups: 2, LatentChannels: 8, ShiftFactor: new(0.25), QuantConv: new(false), MidAttention: new(false)}
	for name, c := range map[string]struct {
		config any
		plan   []nn.Shape
	}{
		"AutoencoderKL":   {odd, Shapes(odd)},
		"AutoencoderTiny": {TinyConfig{LatentChannels: 16}, TinyShapes(TinyConfig{LatentChannels: 16})},
	} {
		data, err := json.Marshal(c.config)
		require.NoError(t, err)
		path := filepath.Join(dir, name)
		require.NoError(t, os.Mkdir(path, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(path, "config.json"), data, 0o644))
		var want []string
		for _, v := range c.plan {
			dims, err := json.Marshal(v.Dims)
			require.NoError(t, err)
			want = append(want, v.Name+" "+string(dims))
		}
		require.ElementsMatch(t, want, tensors(t, python, name, path), name)
	}
}

// FuzzParseConfig: an error, or a configuration that is valid and that comes back from what we write of it.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{}`), false)
	for _, c := range []Config{SD15(), SDXL(), {Channels: []int{4}, Groups: 2, ShiftFactor: new(0.5), QuantConv: new(false)}} {
		b, err := json.Marshal(c)
		require.NoError(f, err)
		f.Add(b, false)
	}
	for _, c := range []TinyConfig{TAESD(), TAEF2()} {
		b, err := json.Marshal(c)
		require.NoError(f, err)
		f.Add(b, true)
	}
	f.Add([]byte(`{"block_out_channels": [8192, 8192], "sample_size": [8, 8], "shift_factor": 1e9}`), false)
	f.Fuzz(func(t *testing.T, data []byte, tiny bool) {
		if tiny {
			c, err := ParseTinyConfig(data)
			if err != nil {
				return
			}
			require.Positive(t, nn.Count(TinyShapes(c)))
			written, err := json.Marshal(c)
			require.NoError(t, err)
			again, err := ParseTinyConfig(written)
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
