package clip

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a CLIP text encoder. Zero fields have the defaults of transformers' CLIPTextConfig: see WithDefaults. Its JSON is a
// config.json that transformers reads.
type Config struct {
	Vocab         int     `json:"vocab_size"`              // vocabulary size; 0: 49408
	Width         int     `json:"hidden_size"`             // features of a token; 0: 512
	MLPWidth      int     `json:"intermediate_size"`       // features inside a layer's MLP; 0: 2048
	Depth         int     `json:"num_hidden_layers"`       // 0: 12
	Heads         int     `json:"num_attention_heads"`     // 0: 8
	Positions     int     `json:"max_position_embeddings"` // maximum number of tokens; 0: 77
	Activation    string  `json:"hidden_act"`              // quick_gelu, gelu, gelu_new, gelu_pytorch_tanh; "": quick_gelu
	Eps           float64 `json:"layer_norm_eps"`          // of all norms; 0: 1e-5
	EOS           int     `json:"eos_token_id"`            // the end token, see Output.Pooled; 0: 49407
	ProjectionDim int     `json:"projection_dim"`          // width of text_projection, if there is one; 0: 512

	// Projection: the pooled output goes through text_projection, as in CLIPTextModelWithProjection. In a config.json it follows from
	// architectures.
	Projection bool `json:"-"`
}

// legacyEOS is the eos_token_id in files from before transformers' pull request 24773, among them the published encoders. It is not the id
// of the end token, which is then found as the largest id.
const legacyEOS = 2

// L is the text encoder of Stable Diffusion 1.x and the first one of SDXL: CLIP ViT-L/14 (Radford et al. 2021).
func L() Config {
	return Config{
		Width: 768, MLPWidth: 3072, Depth: 12, Heads: 12, Activation: quickGELU, EOS: legacyEOS, ProjectionDim: 768,
	}.WithDefaults()
}

// H is the text encoder of Stable Diffusion 2.x: OpenCLIP ViT-H/14 without its last layer.
func H() Config {
	return Config{
		Width: 1024, MLPWidth: 4096, Depth: 23, Heads: 16, Activation: gelu, EOS: legacyEOS, ProjectionDim: 512,
	}.WithDefaults()
}

// BigG is the second text encoder of SDXL: OpenCLIP ViT-bigG/14, with its projection.
func BigG() Config {
	return Config{
		Width: 1280, MLPWidth: 5120, Depth: 32, Heads: 20, Activation: gelu, EOS: legacyEOS, ProjectionDim: 1280, Projection: true,
	}.WithDefaults()
}

// Mini is an encoder of two layers and width 128, to be trained from scratch with a small U-Net: 0.9 million weights with a vocabulary of
// 4096 tokens. Vocab, Positions and EOS are the tokenizer's: see sd.New.
func Mini() Config { return Config{Width: 128, MLPWidth: 512, Depth: 2, Heads: 4} }

// Small is an encoder of four layers and width 256.
func Small() Config { return Config{Width: 256, MLPWidth: 1024, Depth: 4, Heads: 4} }

// Names of activation functions.
const (
	quickGELU   = "quick_gelu"
	gelu        = "gelu"
	geluNew     = "gelu_new"
	geluPyTorch = "gelu_pytorch_tanh"
)

// activations maps the values of Activation to functions.
var activations = map[string]func(s *torch.Scope, x *torch.Tensor) *torch.Tensor{
	quickGELU:   sigmoidGELU,
	gelu:        func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.GELU(s, false) },
	geluNew:     func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.GELU(s, true) },
	geluPyTorch: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.GELU(s, true) },
}

// WithDefaults returns the configuration with every field that was left at zero filled in.
func (c Config) WithDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Vocab, 49408)
	def(&c.Width, 512)
	def(&c.MLPWidth, 2048)
	def(&c.Depth, 12)
	def(&c.Heads, 8)
	def(&c.Positions, 77)
	def(&c.EOS, 49407)
	def(&c.ProjectionDim, 512)
	if c.Activation == "" {
		c.Activation = quickGELU
	}
	if c.Eps == 0 {
		c.Eps = 1e-5
	}
	return c
}

// maxWeights is Validate's limit: 32 GiB in float32, twelve times the largest published encoder.
const maxWeights = 1 << 33

// Validate returns an error, with the key of config.json, for a configuration that New could not build. Fill in the defaults first.
func (c Config) Validate() error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("clip: %w", err)
	}
	return nil
}

func (c Config) validate() error {
	for _, n := range []struct {
		key          string
		value, limit int
	}{
		{"vocab_size", c.Vocab, 1 << 20},
		{"hidden_size", c.Width, 1 << 14},
		{"intermediate_size", c.MLPWidth, 1 << 17},
		{"num_hidden_layers", c.Depth, 256},
		{"num_attention_heads", c.Heads, 1024},
		{"max_position_embeddings", c.Positions, 1 << 13},
		{"eos_token_id", c.EOS, 1<<31 - 1},
		{"projection_dim", c.ProjectionDim, 1 << 14},
	} {
		if n.value < 1 || n.value > n.limit {
			return fmt.Errorf("%s: want 1 to %d, got %d", n.key, n.limit, n.value)
		}
	}
	switch {
	case c.Width%c.Heads != 0:
		return fmt.Errorf("hidden_size %d is not divisible by num_attention_heads %d", c.Width, c.Heads)
	case activations[c.Activation] == nil:
		return fmt.Errorf("hidden_act: want %s, %s, %s or %s, got %s", quickGELU, gelu, geluNew, geluPyTorch, quote.Quoted(c.Activation))
	case !(c.Eps > 0 && c.Eps < 1):
		return fmt.Errorf("layer_norm_eps: want a number in (0, 1), got %g", c.Eps)
	}
	if n := nn.Count(Shapes(c)); n > maxWeights {
		return fmt.Errorf("the configuration has %d weights, the limit is %d", n, maxWeights)
	}
	return nil
}

const (
	textModel      = "CLIPTextModel"
	projectedModel = "CLIPTextModelWithProjection"
	bothModels     = "CLIPModel" // with an image encoder
)

// MarshalJSON writes a config.json for transformers' CLIPTextModel, or CLIPTextModelWithProjection.
func (c Config) MarshalJSON() ([]byte, error) {
	type keys Config // without this method
	file := struct {
		Architectures []string `json:"architectures"`
		ModelType     string   `json:"model_type"`
		keys
	}{[]string{textModel}, "clip_text_model", keys(c.WithDefaults())}
	if c.Projection {
		file.Architectures[0] = projectedModel
	}
	return json.Marshal(file)
}

// ParseConfig reads a config.json of transformers' CLIPTextModel, CLIPTextModelWithProjection or CLIPModel; from the last it reads the text
// encoder, in text_config. Missing keys have transformers' defaults.
//
// Keys that do not affect the computation are ignored, among them pad_token_id and bos_token_id: the tokenizer does the padding.
// Unsupported values are errors that name key and value.
func ParseConfig(data []byte) (Config, error) {
	c, err := parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("clip: config: %w", err)
	}
	return c, nil
}

func parse(data []byte) (Config, error) {
	file, err := object(data)
	if err != nil {
		return Config{}, err
	}
	projected, both, err := architecture(file)
	if err != nil {
		return Config{}, err
	}
	keys := file
	if inner, ok := file["text_config"]; ok {
		if keys, err = object(inner); err != nil {
			return Config{}, fmt.Errorf("text_config: %w", err)
		}
	}
	if err := supported(file, keys); err != nil {
		return Config{}, err
	}
	c := Config{Projection: projected}.WithDefaults()
	dim := keys
	if both {
		dim = file
	}
	if isNull(dim["projection_dim"]) && !projected {
		delete(dim, "projection_dim") // files of encoders without a projection may have null
	}
	for _, err := range []error{
		keys.read("vocab_size", &c.Vocab), keys.read("hidden_size", &c.Width), keys.read("intermediate_size", &c.MLPWidth),
		keys.read("num_hidden_layers", &c.Depth), keys.read("num_attention_heads", &c.Heads),
		keys.read("max_position_embeddings", &c.Positions), keys.read("hidden_act", &c.Activation),
		keys.read("layer_norm_eps", &c.Eps), keys.read("eos_token_id", &c.EOS), dim.read("projection_dim", &c.ProjectionDim),
	} {
		if err != nil {
			return Config{}, err
		}
	}
	return c, c.validate()
}

// fields are the members of a JSON object by exact name; encoding/json would accept "Hidden_Size" for hidden_size.
type fields map[string]json.RawMessage

func object(data []byte) (fields, error) {
	var f fields
	if err := configjson.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", quote.Error(err))
	}
	if f == nil {
		return nil, errors.New("want a JSON object, got null")
	}
	return f, nil
}

func isNull(v json.RawMessage) bool { return string(v) == "null" }

// read sets *to to the key's value, if it is present.
func (f fields) read(key string, to any) error {
	v, ok := f[key]
	if !ok {
		return nil
	}
	if isNull(v) || json.Unmarshal(v, to) != nil {
		what := map[bool]string{true: "a string", false: "a number"}[key == "hidden_act"]
		if _, ok := to.(*int); ok {
			what = "an integer"
		}
		return fmt.Errorf("%s: want %s, got %s", key, what, quote.Text(v))
	}
	return nil
}

// architecture reports whether the file's encoder has a projection, and whether the file is of a CLIPModel.
func architecture(file fields) (projected, both bool, err error) {
	var names []string
	if v := file["architectures"]; v != nil && json.Unmarshal(v, &names) != nil {
		return false, false, fmt.Errorf("architectures: want a list of names, got %s", quote.Text(v))
	}
	for _, name := range names {
		if !slices.Contains([]string{textModel, projectedModel, bothModels}, name) {
			want := strings.Join([]string{textModel, projectedModel, bothModels}, ", ")
			return false, false, fmt.Errorf("architectures: only %s are supported, got %s", want, quote.Quoted(name))
		}
	}
	both = slices.Contains(names, bothModels)
	return both || slices.Contains(names, projectedModel), both, nil
}

// supported returns an error for unsupported values in the file or its text_config.
func supported(file, keys fields) error {
	for _, f := range []fields{file, keys} {
		for _, k := range []struct {
			name   string
			values []string
		}{
			{"model_type", []string{`"clip_text_model"`, `"clip"`, "null"}},
			{"use_attention_mask", []string{"false", "null"}}, // with it, diffusers masks the padding
			{"quantization_config", []string{"null"}},
		} {
			if v, ok := f[k.name]; ok && !slices.Contains(k.values, string(v)) {
				return fmt.Errorf("%s: only %s is supported, got %s", k.name, strings.Join(k.values, " or "), quote.Text(v))
			}
		}
	}
	return nil
}
