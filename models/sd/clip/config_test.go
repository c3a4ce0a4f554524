package clip

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// readJSON reads a file of scripts/golden/models/sd/clip/clip.py.
func readJSON(t *testing.T, name string, to any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, to))
}

// The published encoders have the numbers of weights and tensors that transformers' have.
func TestPresetsHavePublishedSizes(t *testing.T) {
	type size struct{ Weights, Tensors int }
	var published struct{ L, H, BigG size }
	readJSON(t, "sizes.json", &published)
	require.Equal(t, 123_060_480, published.L.Weights)
	require.Equal(t, 694_659_840, published.BigG.Weights)
	for _, c := range []struct {
		config Config
		want   size
	}{{L(), published.L}, {H(), published.H}, {BigG(), published.BigG}} {
		require.NoError(t, c.config.Validate())
		plan := Shapes(c.config)
		require.Equal(t, c.want, size{nn.Count(plan), len(plan)})
	}
	last := Shapes(BigG())[516]
	require.Equal(t, nn.Shape{Name: "text_projection.weight", Dims: []int{1280, 1280}}, last)
	require.Equal(t, nn.Shape{Name: "text_model.embeddings.token_embedding.weight", Dims: []int{49408, 768}}, Shapes(L())[0])
}

// Files that versions 4 and 5 of transformers wrote are read as transformers 5 reads them, and what we write is read alike.
func TestParseConfigReadsAsTransformers(t *testing.T) {
	var golden struct {
		Files []struct {
			Name string
			File json.RawMessage
			Want Config
		}
	}
	readJSON(t, "configs.json", &golden)
	require.Len(t, golden.Files, 6)
	for _, f := range golden.Files {
		t.Run(f.Name, func(t *testing.T) {
			f.Want.Projection = strings.HasSuffix(f.Name, "with images") || strings.HasSuffix(f.Name, "with a projection")
			got, err := ParseConfig(f.File)
			require.NoError(t, err)
			require.Equal(t, f.Want, got)

			written, err := json.Marshal(got)
			require.NoError(t, err)
			again, err := ParseConfig(written)
			require.NoError(t, err)
			require.Equal(t, got, again)
		})
	}
}

// The zero configuration is that of an empty file, and the one that is written out.
func TestZeroConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, Config{}.WithDefaults(), c)
	written, err := json.Marshal(Config{})
	require.NoError(t, err)
	require.JSONEq(t, `{"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408,
		"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77,
		"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407, "projection_dim": 512}`, string(written))
}

// What an encoder without a projection says of one does not matter, nor do keys that differ only in case.
func TestParseConfigIgnores(t *testing.T) {
	for _, text := range []string{
		`{"projection_dim": null}`,
		`{"Hidden_Size": -1, "attention_dropout": 0.1, "pad_token_id": null, "bos_token_id": 0, "architectures": null}`,
		`{"model_type": "clip", "text_config": {"model_type": "clip_text_model"}, "vision_config": {"hidden_size": 0}}`,
		`{"hidden_size": 512, "use_attention_mask": false, "quantization_config": null, "model_type": null}`,
	} {
		c, err := ParseConfig([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, Config{}.WithDefaults(), c, text)
	}
}

// Hostile and unsupported files are refused, by key and value.
func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, "want a JSON object: unexpected end of JSON input"},
		{`null`, "want a JSON object, got null"},
		{`[1]`, "want a JSON object: "},
		{`{} {}`, "want a JSON object: "},
		{`{"text_config": null}`, "text_config: want a JSON object, got null"},
		{`{"text_config": {"hidden_size": 0}}`, "hidden_size: want 1 to 16384, got 0"},
		{`{"vocab_size": 0}`, "vocab_size: want 1 to 1048576, got 0"},
		{`{"vocab_size": -5}`, "vocab_size: want 1 to 1048576, got -5"},
		{`{"hidden_size": 1000000000000}`, "hidden_size: want 1 to 16384, got 1000000000000"},
		{`{"hidden_size": 1e30}`, "hidden_size: want an integer, got 1e30"},
		{`{"hidden_size": 512.5}`, "hidden_size: want an integer, got 512.5"},
		{`{"hidden_size": "512"}`, `hidden_size: want an integer, got "512"`},
		{`{"hidden_size": null}`, "hidden_size: want an integer, got null"},
		{`{"intermediate_size": 131073}`, "intermediate_size: want 1 to 131072, got 131073"},
		{`{"num_hidden_layers": 257}`, "num_hidden_layers: want 1 to 256, got 257"},
		{`{"num_attention_heads": 0}`, "num_attention_heads: want 1 to 1024, got 0"},
		{`{"num_attention_heads": 7}`, "hidden_size 512 is not divisible by num_attention_heads 7"},
		{`{"max_position_embeddings": 0}`, "max_position_embeddings: want 1 to 8192, got 0"},
		{`{"eos_token_id": 0}`, "eos_token_id: want 1 to 2147483647, got 0"},
		{`{"eos_token_id": [2, 3]}`, "eos_token_id: want an integer, got [2, 3]"},
		{`{"hidden_act": "relu"}`, `hidden_act: want quick_gelu, gelu, gelu_new or gelu_pytorch_tanh, got "relu"`},
		{`{"hidden_act": ""}`, `got ""`},
		{`{"hidden_act": {"name": "gelu"}}`, `hidden_act: want a string, got {"name": "gelu"}`},
		{`{"layer_norm_eps": 0}`, "layer_norm_eps: want a number in (0, 1), got 0"},
		{`{"layer_norm_eps": -1e-5}`, "layer_norm_eps: want a number in (0, 1), got -1e-05"},
		{`{"layer_norm_eps": "1e-5"}`, `layer_norm_eps: want a number, got "1e-5"`},
		{`{"projection_dim": 0}`, "projection_dim: want 1 to 16384, got 0"},
		{`{"projection_dim": null, "architectures": ["CLIPModel"]}`, "projection_dim: want an integer, got null"},
		{`{"architectures": ["T5EncoderModel"]}`,
			`architectures: only CLIPTextModel, CLIPTextModelWithProjection, CLIPModel are supported, got "T5EncoderModel"`},
		{`{"architectures": "CLIPTextModel"}`, `architectures: want a list of names, got "CLIPTextModel"`},
		{`{"model_type": "t5"}`, `model_type: only "clip_text_model" or "clip" or null is supported, got "t5"`},
		{`{"text_config": {"model_type": "siglip_text_model"}}`, `got "siglip_text_model"`},
		{`{"use_attention_mask": true}`, "use_attention_mask: only false or null is supported, got true"},
		{`{"quantization_config": {"load_in_4bit": true}}`, "quantization_config: only null is supported, got "},
		{`{"vocab_size": 1048576, "hidden_size": 16384, "num_attention_heads": 1}`, "weights, the limit is 8589934592"},
		{`{"hidden_act": "` + strings.Repeat("x", 1000) + `"}`, strings.Repeat("x", 99)},
	} {
		_, err := ParseConfig([]byte(c.text))
		require.ErrorContains(t, err, "clip: config: ", c.text)
		require.ErrorContains(t, err, c.want, c.text)
		require.Less(t, len(err.Error()), 400)
	}
}

// Constructors refuse what Validate refuses, without making anything.
func TestNewRefuses(t *testing.T) {
	_, err := New(Config{Width: 10, Heads: 3}, torch.CPU, torch.Float32, 0)
	require.EqualError(t, err, "clip: hidden_size 10 is not divisible by num_attention_heads 3")
	_, err = From(Config{Activation: "swish"}, nil, torch.CPU, torch.Float32)
	require.ErrorContains(t, err, `clip: hidden_act: want quick_gelu, gelu, gelu_new or gelu_pytorch_tanh, got "swish"`)
}

// Whatever the file says: an error, or a configuration that is valid and that is the same when written and read again.
func FuzzParseConfig(f *testing.F) {
	for _, c := range []Config{{}, L(), H(), BigG()} {
		text, err := json.Marshal(c)
		require.NoError(f, err)
		f.Add(text)
		f.Add(fmt.Appendf(nil, `{"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 3, "text_config": %s}`, text))
	}
	f.Add([]byte(`{"vocab_size": 1, "hidden_size": 1, "num_attention_heads": 1, "layer_norm_eps": 1e-300, "projection_dim": null}`))
	f.Add([]byte(`{"text_config": {"text_config": {}}, "architectures": [], "hidden_act": "gelu_new"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			require.Less(t, len(err.Error()), 2000)
			return
		}
		require.NoError(t, c.Validate())
		written, err := json.Marshal(c)
		require.NoError(t, err)
		again, err := ParseConfig(written)
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}
