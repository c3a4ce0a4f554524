package unet

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// Published sizes: those of the released checkpoints (consistency models, EDM), counted without making a weight.
func TestPresetsHavePublishedSizes(t *testing.T) {
	live := torch.Live()
	cifar := []int{2, 2, 2}
	for _, c := range []struct {
		name    string
		config  Config
		want    float64 // millions of weights
		tensors int     // 0: not published
		buffers int     // of ours
	}{
		{"ADM ImageNet 64", ADMImageNet64(), 295.90, 541, 0},
		{"ADM LSUN 256", ADMLSUN256(), 526.30, 566, 0},
		// The published ones have another tensor, a matrix of 9 by the number of sines and cosines for labels of augmentation.
		// They keep the filter, and 11 buffers of NCSN++, once for each place where it is used.
		{"DDPM++ CIFAR-10", DDPMPP(32, 3, 128, cifar, 4, 16), 55.734 - 9*128/1e6, 417 - 1, 0},
		{"NCSN++ CIFAR-10", NCSNPP(32, 3, 128, cifar, 4, 16), 56.398 - 9*256/1e6, 421 - 1, 2},
		{"NCSN++ CIFAR-10, deep", NCSNPP(32, 3, 128, cifar, 8, 16), 97.6, 0, 2},
		{"benchmark, 32×32×3", benchmark(32, 3), 6.989891, 0, 0},
		{"benchmark, 28×28×1", benchmark(28, 1), 6.987585, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, c.config.Validate())
			tolerance := 0.0006
			if c.want > 90 {
				tolerance = 0.06
			}
			require.InDelta(t, c.want, float64(c.config.Count())/1e6, tolerance)
			tensors, buffers := 0, 0
			for _, p := range c.config.Shapes() {
				switch {
				case p.Buffer:
					buffers++
				case strings.Contains(p.Name, ".to_q.") || strings.Contains(p.Name, ".to_k."): // with to_v one tensor in the published
				default:
					tensors++
				}
			}
			require.Equal(t, c.buffers, buffers)
			if c.tensors > 0 {
				require.Equal(t, c.tensors, tensors)
			}
		})
	}
	require.Equal(t, live, torch.Live())
}

func TestValidate(t *testing.T) {
	with := func(change func(c *Config)) Config {
		c := Config{Resolution: 28, InChannels: 1, Channels: 32, Mult: []int{1, 2, 2}, Blocks: 1}
		change(&c)
		return c
	}
	for _, c := range []struct {
		name   string
		config Config
		want   string // part of the error; "": none
	}{
		{"zero value", Config{}, ""},
		{"28, 14, 7", with(func(*Config) {}), ""},
		{"28 four times", with(func(c *Config) { c.Mult = []int{1, 1, 1, 1} }), "resolution 28 cannot be halved 3 times: level 2 is 7 pixels wide"},
		{"one level of odd size", with(func(c *Config) { c.Resolution, c.Mult = 7, []int{1} }), ""},
		{"no level", with(func(c *Config) { c.Mult = []int{} }), "levels (the length of mult): want 1 to 10, got 0"},
		{"mult of 0", with(func(c *Config) { c.Mult = []int{1, 0} }), "mult: want 1 to 64, got 0"},
		{"attention", with(func(c *Config) { c.Attention = []int{14, 7} }), ""},
		{"attention at no level", with(func(c *Config) { c.Attention = []int{16} }), "28, 14 and 7, got 16"},
		{"groups", with(func(c *Config) { c.NormGroups = 5 }), "norm over 32 channels"},
		{"groups of joined channels", with(func(c *Config) { c.Channels, c.Mult = 40, []int{1, 2, 3} }), "norm over 200 channels"},
		{"heads", with(func(c *Config) { c.HeadDim, c.Attention = 24, []int{28} }), "level 0 has 32 channels, want a multiple of head_dim, 24"},
		{"heads in the middle", with(func(c *Config) { c.HeadDim = 24 }), "level 2 has 64 channels"},
		{"heads nowhere", with(func(c *Config) { c.HeadDim, c.NoMidAttention = 24, true }), ""},
		{"heads of every level", with(func(c *Config) { c.Heads = 4 }), ""},
		{"heads that do not divide", with(func(c *Config) { c.Heads = 5 }), "heads: level 2 has 64 channels, want a multiple of heads, 5"},
		{"heads twice", with(func(c *Config) { c.Heads, c.HeadDim = 2, 8 }), "head_dim and heads"},
		{"labels first of none", with(func(c *Config) { c.LabelsFirst = true }), "labels_first"},
		{"odd embedding", with(func(c *Config) { c.EmbeddingChannels = 33 }), "want an even number"},
		{"odd channels beside an embedding", with(func(c *Config) { c.Channels, c.Mult, c.EmbeddingChannels = 33, []int{1}, 16; c.NormGroups = 3 }), ""},
		{"augment", with(func(c *Config) { c.Augment = -1 }), "augment: want 0 to 4096, got -1"},
		{"odd channels", with(func(c *Config) { c.Channels = 33 }), "channels: want an even number"},
		{"no channels", with(func(c *Config) { c.Channels = -8 }), "channels: want 2 to 4096, got -8"},
		{"resolution", with(func(c *Config) { c.Resolution = -1 }), "resolution: want 1 to 4096, got -1"},
		{"dropout", with(func(c *Config) { c.Dropout = 1 }), "dropout: want a probability in [0, 1), got 1"},
		{"dropout of NaN", with(func(c *Config) { c.Dropout = math.NaN() }), "dropout"},
		{"eps", with(func(c *Config) { c.NormEps = -1 }), "norm_eps"},
		{"skip scale", with(func(c *Config) { c.SkipScale = -0.5 }), "skip_scale"},
		{"resample", with(func(c *Config) { c.Resample = "fir" }), `resample: want "conv" or "residual", got "fir"`},
		{"embedding", with(func(c *Config) { c.Embedding = "learned" }), `embedding: want "positional" or "fourier", got "learned"`},
		{"fourier scale", with(func(c *Config) { c.FourierScale = math.Inf(1) }), "fourier_scale"},
		{"one frequency with its end", with(func(c *Config) { c.Channels, c.Mult, c.EndpointFreqs = 2, []int{1}, true }), "endpoint_freqs"},
		{"filter", with(func(c *Config) { c.Filter = []float64{1, 3, 3, 1} }), ""},
		{"filter with its sign", with(func(c *Config) { c.Filter = []float64{-1, 9, 9, -1} }), ""},
		{"odd filter", with(func(c *Config) { c.Filter = []float64{1, 2, 1} }), "2 to 16, got 3"},
		{"empty filter", with(func(c *Config) { c.Filter = []float64{} }), "2 to 16, got 0"},
		{"lopsided filter", with(func(c *Config) { c.Filter = []float64{1, 3} }), "got [1 3]"},
		{"filter of NaN", with(func(c *Config) { c.Filter = []float64{math.NaN(), math.NaN()} }), "got [NaN NaN]"},
		{"filter of sum 0", with(func(c *Config) { c.Filter = []float64{1, -1, -1, 1} }), "got [1 -1 -1 1]"},
		{"filter of strides", with(func(c *Config) { c.Filter, c.Resample = []float64{1, 1}, ResampleConv }), "filter: strided convolutions"},
		{"filter of the input", with(func(c *Config) { c.Filter, c.Resample, c.ResidualInput = []float64{1, 1}, ResampleConv, true }), ""},
		{"a label for none of none", with(func(c *Config) { c.NullLabel = true }), "null_label"},
		{"guidance with its end", with(func(c *Config) {
			c.Channels, c.Mult, c.EndpointFreqs, c.Embedding, c.Guidance = 2, []int{1}, true, Fourier, true
		}), "endpoint_freqs"},
		{"classes", with(func(c *Config) { c.Classes = -1 }), "classes"},
		{"absurd", with(func(c *Config) { c.Channels, c.Mult, c.Blocks = 4096, []int{64, 64, 64}, 64 }), "weights, the limit is 8589934592"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.config.WithDefaults().Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			_, err = New(c.config, torch.CPU, torch.Float32, 1)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// A configuration survives JSON, and its defaults are stable.
func TestConfigJSON(t *testing.T) {
	c := Config{
		Resolution: 64, InChannels: 4, OutChannels: 8, Channels: 96, Mult: []int{1, 3}, Blocks: 4, Attention: []int{32}, HeadDim: 32,
		LastDecoderAttention: true, NoMidAttention: true, Resample: ResampleConv, ResampleSkip: true, PadAfter: true, ScaleShift: true,
		SkipScale: 0.5, MidSkipScale: 0.25, NormGroups: 16, NormEps: 1e-6, Embedding: Fourier, FourierScale: 0.02, SinFirst: true,
		EndpointFreqs: true, Classes: 10, NullLabel: true, Until: true, Guidance: true, Dropout: 0.3, Filter: []float64{1, 3, 3, 1},
		ResidualInput: true, EmbeddingChannels: 32, LabelsFirst: true, Augment: 9, Heads: 2,
	}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	var got Config
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&got))
	require.Equal(t, c, got)
	require.Equal(t, c, c.WithDefaults(), "nothing was left at zero")
	require.Equal(t, Config{}.WithDefaults(), Config{}.WithDefaults().WithDefaults())
}

// A plan lists what the network then has.
func TestShapes(t *testing.T) {
	c := NCSNPP(12, 1, 8, []int{1, 2}, 1, 6)
	c.Classes, c.NullLabel, c.Until, c.Guidance = 3, true, true, true
	net := build(t, c)
	i, shapes := 0, c.Shapes()
	for name, p := range net.Tensors() {
		require.Equal(t, name, shapes[i].Name)
		require.Equal(t, p.Shape(), shapes[i].Dims, name)
		require.Equal(t, name == "time_proj.weight" || name == filterName, shapes[i].Buffer, name)
		i++
	}
	require.Len(t, shapes, i)
	require.Equal(t, net.Store().Count(), c.Count())
}

// Each key that asks for what the network does not have is named.
func TestFromDiffusersRefuses(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`nonsense`, "invalid character"},
		{`[]`, "want an object, got a JSON array"},
		{`{}`, "sample_size: want a positive number, got null"},
		{`{"sample_size": 32, "in_channels": "3"}`, "in_channels"},
		{`{"sample_size": 32, "cross_attention_dim": 768}`, `unknown field "cross_attention_dim"`},
		{`{"_class_name": "UNet2DConditionModel", "sample_size": 32}`, "_class_name: only UNet2DModel is supported, the file has UNet2DConditionModel"},
		{`{"sample_size": [32, 64]}`, "got [32,64]"},
		{`{"sample_size": 30}`, "resolution 30 cannot be halved 3 times"},
		{`{"sample_size": 32, "block_out_channels": [64, 96, 128, 128]}`, "block_out_channels: want multiples of the first"},
		{`{"sample_size": 32, "block_out_channels": [0, 0, 0, 0]}`, "block_out_channels: want multiples of the first"},
		{`{"sample_size": 32, "block_out_channels": [32, 32]}`, "want one entry a level in each, got 4, 4 and 2"},
		{`{"sample_size": 32, "block_out_channels": [], "down_block_types": [], "up_block_types": []}`, "want one entry a level"},
		{`{"sample_size": 32, "center_input_sample": true}`, "center_input_sample"},
		{`{"sample_size": 32, "time_embedding_type": "learned"}`, "time_embedding_type"},
		{`{"sample_size": 32, "time_embedding_dim": 100}`, "time_embedding_dim"},
		{`{"sample_size": 32, "freq_shift": 0.5}`, "freq_shift"},
		{`{"sample_size": 32, "mid_block_type": null}`, "mid_block_type"},
		{`{"sample_size": 32, "mid_block_type": "UNetMidBlock2DCrossAttn"}`, "mid_block_type"},
		{`{"sample_size": 32, "mid_block_scale_factor": 0}`, "mid_block_scale_factor"},
		{`{"sample_size": 32, "downsample_padding": 2}`, "downsample_padding"},
		{`{"sample_size": 32, "downsample_type": "fir"}`, "downsample_type: only conv or resnet is supported, the file has fir"},
		{`{"sample_size": 32, "downsample_type": "resnet"}`, `"conv" and "residual"`},
		{`{"sample_size": 32, "act_fn": "mish"}`, "act_fn: only silu is supported, the file has mish"},
		{`{"sample_size": 32, "norm_num_groups": 0}`, "norm_num_groups"},
		{`{"sample_size": 32, "attention_head_dim": 0}`, "attention_head_dim"},
		{`{"sample_size": 32, "attention_head_dim": 9}`, "multiple of head_dim, 9"},
		{`{"sample_size": 32, "resnet_time_scale_shift": "spatial"}`, "resnet_time_scale_shift"},
		{`{"sample_size": 32, "resnet_time_scale_shift": "scale_shift"}`, "attn_norm_num_groups: null with scale_shift"},
		{`{"sample_size": 32, "attn_norm_num_groups": 8}`, "attn_norm_num_groups"},
		{`{"sample_size": 32, "class_embed_type": "timestep"}`, "class_embed_type"},
		{`{"sample_size": 32, "num_class_embeds": 0}`, "num_class_embeds"},
		{`{"sample_size": 32, "down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]}`, "down_block_types: SkipDownBlock2D is not supported"},
		{`{"sample_size": 32, "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}`, "level 3 has AttnDownBlock2D and UpBlock2D"},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := FromDiffusers([]byte(c.config))
			require.ErrorContains(t, err, "unet: diffusers config: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Keys that are absent mean UNet2DModel's defaults.
func TestFromDiffusersDefaults(t *testing.T) {
	c, err := FromDiffusers([]byte(`{"sample_size": [64, 64], "_diffusers_version": "0.42.1"}`))
	require.NoError(t, err)
	require.Equal(t, Config{
		Resolution: 64, InChannels: 3, OutChannels: 3, Channels: 224, Mult: []int{1, 2, 3, 4}, Blocks: 2, Attention: []int{32, 16, 8}, HeadDim: 8,
		Resample: ResampleConv, SkipScale: 1, MidSkipScale: 1, NormGroups: 32, NormEps: 1e-5, Embedding: Positional, FourierScale: 16,
	}, c)
}

// A label for no class is one class more to diffusers.
func TestDiffusersNullLabel(t *testing.T) {
	c := tiny
	c.Classes, c.NullLabel = 3, true
	written, err := c.Diffusers()
	require.NoError(t, err)
	again, err := FromDiffusers(written)
	require.NoError(t, err)
	require.Equal(t, 4, again.Classes)
	require.Equal(t, c.Shapes(), again.Shapes())
}

// What UNet2DModel cannot express is refused by name.
func TestDiffusersRefuses(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{SkipScale: sqrtHalf}, "skip_scale"},
		{Config{ResampleSkip: true}, "resample_skip"},
		{Config{LastDecoderAttention: true, Attention: []int{16}}, "last_decoder_attention"},
		{Config{Channels: 64}, "norms with different numbers of groups, 16 to 32: set norm_groups"},
		{Config{Filter: []float64{1, 3, 3, 1}}, "filter"},
		{Config{ResidualInput: true}, "residual_input"},
		{Config{NormGroups: 16, Heads: 2}, "heads"},
		{Config{NormGroups: 16, EmbeddingChannels: 32}, "embedding_channels"},
		{Config{NormGroups: 16, Classes: 3, LabelsFirst: true}, "labels_first"},
		{Config{NormGroups: 16, Augment: 9}, "augment"},
		{Config{Until: true}, "until"},
		{Config{Guidance: true}, "guidance"},
		{Config{Channels: 33}, "even number"},
	} {
		_, err := c.config.Diffusers()
		require.ErrorContains(t, err, c.want)
	}
}

// Whatever the file says: an error, or a configuration that is valid and that diffusers can be told again.
func FuzzFromDiffusers(f *testing.F) {
	for _, s := range []string{
		`{"sample_size": 32}`,
		`{"sample_size": 8, "block_out_channels": [8, 16], "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
			"up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"], "upsample_type": "resnet", "norm_num_groups": 4}`,
		`{"sample_size": 4, "block_out_channels": [32], "down_block_types": ["UNetResDownBlock2D"], "up_block_types": ["UpBlock2D"], "time_embedding_type": "fourier"}`,
		`{"sample_size": [0, 0], "block_out_channels": [4096, 262144], "mid_block_scale_factor": 1e-300}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := FromDiffusers(data)
		if err != nil {
			return
		}
		require.NoError(t, c.Validate())
		written, err := c.Diffusers()
		require.NoError(t, err)
		again, err := FromDiffusers(written)
		require.NoError(t, err)
		require.InEpsilon(t, c.MidSkipScale, again.MidSkipScale, 1e-14)
		again.MidSkipScale = c.MidSkipScale
		require.Equal(t, c, again)
	})
}
