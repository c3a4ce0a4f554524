package dit

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func TestValidate(t *testing.T) {
	with := func(change func(c *Config)) Config {
		c := Config{Resolution: 28, InChannels: 1, Patch: 4, Width: 64, Depth: 2}
		change(&c)
		return c
	}
	for _, c := range []struct {
		name   string
		config Config
		want   string // part of the error; "": none
	}{
		{"zero value", Config{}, ""},
		{"7 patches a side", with(func(*Config) {}), ""},
		{"patch does not divide", with(func(c *Config) { c.Patch = 8 }), "resolution 28 is not a multiple of the patch size 8"},
		{"patch larger than the image", with(func(c *Config) { c.Patch = 56 }), "not a multiple of the patch size 56"},
		{"one patch", with(func(c *Config) { c.Patch = 28 }), ""},
		{"no patch", with(func(c *Config) { c.Patch = -1 }), "patch: want 1 to 256, got -1"},
		{"resolution", with(func(c *Config) { c.Resolution = -28 }), "resolution: want 1 to 4096, got -28"},
		{"tokens", with(func(c *Config) { c.Resolution, c.Patch = 4096, 2 }), "4194304 tokens, the limit is 65536"},
		{"width for two directions", with(func(c *Config) { c.Width, c.Heads = 66, 1 }), "width: want a multiple of 4, for sines and cosines in"},
		{"width", with(func(c *Config) { c.Width = -4 }), "width: want 4 to 16384, got -4"},
		{"heads", with(func(c *Config) { c.Heads = 3 }), "width 64"},
		{"heads by default", with(func(c *Config) { c.Width = 196 }), "width 196"},
		{"depth", with(func(c *Config) { c.Depth = 257 }), "depth: want 1 to 256, got 257"},
		{"mlp width", with(func(c *Config) { c.MLPWidth = -1 }), "mlp_width"},
		{"odd freqs", with(func(c *Config) { c.Freqs = 7 }), "freqs: want an even number, for sines and cosines, got 7"},
		{"one frequency with its end", with(func(c *Config) { c.Freqs, c.EndpointFreqs = 2, true }), "want freqs of at least 4, got 2"},
		{"eps", with(func(c *Config) { c.MLPNormEps = -1 }), "mlp_norm_eps"},
		{"classes", with(func(c *Config) { c.Classes = -1 }), "classes"},
		{"channels", with(func(c *Config) { c.OutChannels = 2000 }), "out_channels: want 1 to 1024, got 2000"},
		{"dropout", with(func(c *Config) { c.Dropout = 1 }), "dropout: want a probability in [0, 1), got 1"},
		{"dropout of NaN", with(func(c *Config) { c.Dropout = math.NaN() }), "dropout"},
		{"absurd", with(func(c *Config) { c.Width, c.Depth = 1<<14, 256 }), "limit is 8589934592"},
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
		Resolution: 64, InChannels: 4, OutChannels: 8, Patch: 4, Width: 96, Depth: 3, Heads: 6, MLPWidth: 100, Freqs: 64,
		EndpointFreqs: true, MLPNormEps: 1e-5, Classes: 10, Until: true, Guidance: true, Dropout: 0.3,
	}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	var got Config
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&got))
	require.Equal(t, c, got)
	require.Equal(t, c, c.WithDefaults(), "nothing was left at zero")
	require.Equal(t, S2(32, 3), Config{}.WithDefaults(), "the zero value is the paper's smallest network")
	require.Equal(t, Config{}.WithDefaults(), Config{}.WithDefaults().WithDefaults())
}

// A plan lists what the network then has.
func TestShapes(t *testing.T) {
	c := tiny
	c.Classes, c.Until, c.Guidance = 3, true, true
	net := build(t, c)
	require.Equal(t, 3, net.Config().NullClass())
	i, shapes := 0, c.Shapes()
	for name, p := range net.Tensors() {
		require.Equal(t, name, shapes[i].Name)
		require.Equal(t, p.Shape(), shapes[i].Dims, name)
		require.Equal(t, name == "pos_embed", shapes[i].Buffer, name)
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
		{`{"sample_size": "32"}`, "sample_size"},
		{`{"sample_size": 0}`, "sample_size: only a positive number of at most 2^20 is supported, the file has 0"},
		{`{"sample_size": 33}`, "resolution 33 is not a multiple of the patch size 2"},
		{`{"cross_attention_dim": 768}`, `unknown field "cross_attention_dim"`},
		{`{"_class_name": "Transformer2DModel"}`, "_class_name: only DiTTransformer2DModel is supported, the file has Transformer2DModel"},
		{`{"num_attention_heads": 0}`, "num_attention_heads"},
		{`{"attention_head_dim": 4294967296}`, "attention_head_dim"},
		{`{"attention_head_dim": 73, "num_attention_heads": 1}`, "width: want a multiple of 4"},
		{`{"out_channels": 0}`, "out_channels: only a positive number or null is supported"},
		{`{"num_layers": -1}`, "num_layers"},
		{`{"patch_size": 0}`, "patch_size"},
		{`{"attention_bias": false}`, "attention_bias: only true is supported, the file has false"},
		{`{"activation_fn": "geglu"}`, "activation_fn: only gelu-approximate is supported, the file has geglu"},
		{`{"num_embeds_ada_norm": null}`, "num_embeds_ada_norm: only a positive number is supported, the file has null"},
		{`{"num_embeds_ada_norm": 0}`, "num_embeds_ada_norm"},
		{`{"upcast_attention": true}`, "upcast_attention"},
		{`{"norm_type": "ada_norm"}`, "norm_type: only ada_norm_zero is supported, the file has ada_norm"},
		{`{"norm_elementwise_affine": true}`, "norm_elementwise_affine"},
		{`{"norm_eps": 0}`, "norm_eps"},
		{`{"dropout": 1}`, "dropout"},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := FromDiffusers([]byte(c.config))
			require.ErrorContains(t, err, "dit: diffusers config: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Keys that are absent mean DiTTransformer2DModel's defaults: the paper's XL/2 without a variance.
func TestFromDiffusersDefaults(t *testing.T) {
	c, err := FromDiffusers([]byte(`{"_class_name": "DiTTransformer2DModel", "_diffusers_version": "0.42.1"}`))
	require.NoError(t, err)
	want := XL2(32, 4)
	want.Classes, want.EndpointFreqs, want.MLPNormEps = 1000, true, 1e-5
	require.Equal(t, want, c)
}

// What DiTTransformer2DModel cannot express is refused by name.
func TestDiffusersRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.Classes = 0 }, "a network without classes"},
		{func(c *Config) { c.Until = true }, "cannot express until"},
		{func(c *Config) { c.Guidance = true }, "cannot express guidance"},
		{func(c *Config) { c.EndpointFreqs = false }, "frequencies without endpoint_freqs"},
		{func(c *Config) { c.Freqs = 64 }, "freqs of 64: it has 256"},
		{func(c *Config) { c.MLPWidth = 100 }, "mlp_width of 100: it has 4 times the width, 128"},
		{func(c *Config) { c.Patch = 3 }, "not a multiple of the patch"},
	} {
		config := Config{Resolution: 8, Width: 32, Depth: 2, Classes: 3, EndpointFreqs: true}
		_, err := config.Diffusers()
		require.NoError(t, err)
		c.change(&config)
		_, err = config.Diffusers()
		require.ErrorContains(t, err, c.want)
	}
}

// Whatever the file says: an error, or a configuration that is valid and that diffusers can be told again.
func FuzzFromDiffusers(f *testing.F) {
	for _, s := range []string{
		`{}`,
		`{"sample_size": 8, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "out_channels": 8, "norm_eps": 1e-300}`,
		`{"sample_size": 4096, "patch_size": 1, "attention_head_dim": 1048576, "num_attention_heads": 1048576}`,
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
		require.Equal(t, c, again)
	})
}
