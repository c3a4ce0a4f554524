package unet

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
)

// MarshalJSON writes the config.json of diffusers, defaults included.
func (c Config) MarshalJSON() ([]byte, error) {
	type plain Config
	return json.Marshal(struct {
		Class string `json:"_class_name"`
		plain
	}{unetClass, plain(c.WithDefaults())})
}

// MarshalJSON writes the config.json of diffusers, defaults included.
func (c ControlNetConfig) MarshalJSON() ([]byte, error) {
	type plain ControlNetConfig
	return json.Marshal(struct {
		Class string `json:"_class_name"`
		plain
	}{controlNetClass, plain(c.WithDefaults())})
}

const (
	unetClass       = "UNet2DConditionModel"
	controlNetClass = "ControlNetModel"
)

// ParseConfig reads the config.json of diffusers' UNet2DConditionModel. Missing keys have diffusers' defaults. Keys that do not affect the
// computation are ignored, and so is dropout, which only affects training. Unsupported values are errors that name key and value.
func ParseConfig(data []byte) (Config, error) {
	c := Config{}.WithDefaults()
	c.TimeEmbeddingDim = 0 // follows from the file's values
	if err := parse(data, unetClass, &c, unetFixed); err != nil {
		return Config{}, fmt.Errorf("unet: %w", quote.Error(err))
	}
	def(&c.TimeEmbeddingDim, 4*first(c.BlockOutChannels))
	if err := c.Validate(); err != nil {
		return Config{}, quote.Error(err)
	}
	return c, nil
}

// ParseControlNetConfig reads the config.json of diffusers' ControlNetModel, as ParseConfig reads a U-Net's.
func ParseControlNetConfig(data []byte) (ControlNetConfig, error) {
	c := ControlNetConfig{}.WithDefaults()
	if err := parse(data, controlNetClass, &c, controlNetFixed); err != nil {
		return ControlNetConfig{}, fmt.Errorf("controlnet: %w", quote.Error(err))
	}
	if err := c.Validate(); err != nil {
		return ControlNetConfig{}, quote.Error(err)
	}
	return c, nil
}

func first(v Ints) int {
	if len(v) == 0 {
		return 0
	}
	return v[0]
}

// fixed maps keys that a Config does not have to their supported values, as JSON.
type fixed map[string][]string

var (
	encoderFixed = fixed{
		"act_fn":                  {`"silu"`, `"swish"`},
		"class_embed_type":        {"null"},
		"downsample_padding":      {"1"},
		"encoder_hid_dim":         {"null"},
		"encoder_hid_dim_type":    {"null"},
		"mid_block_scale_factor":  {"1"},
		"num_class_embeds":        {"null"},
		"only_cross_attention":    {"false"},
		"resnet_time_scale_shift": {`"default"`},
	}
	unetFixed = fixed{
		"attention_type":                 {`"default"`},
		"center_input_sample":            {"false", "null"},
		"class_embeddings_concat":        {"false", "null"},
		"conv_in_kernel":                 {"3"},
		"conv_out_kernel":                {"3"},
		"dual_cross_attention":           {"false", "null"},
		"mid_block_only_cross_attention": {"null", "false"},
		"time_embedding_act_fn":          {"null"},
		"time_embedding_type":            {`"positional"`},
		"timestep_post_act":              {"null"},
	}
	controlNetFixed = fixed{"global_pool_conditions": {"false"}}
)

// optional are the keys of a Config that may be null.
var optional = []string{
	"addition_embed_type", "addition_time_embed_dim", "mid_block_type", "projection_class_embeddings_input_dim",
	"reverse_transformer_layers_per_block", "sample_size", "time_cond_proj_dim", "time_embedding_dim", "upcast_attention",
	"use_linear_projection",
}

// parse reads a config.json of a diffusers class into c, which holds the defaults, key by key, so that errors can name the key.
func parse(data []byte, class string, c any, own fixed) error {
	if err := configjson.Check(data); err != nil {
		return err
	}
	var file, known map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		return misread("it", err)
	}
	if raw, ok := file["_class_name"]; ok && !agrees(raw, []string{`"` + class + `"`}) {
		return fmt.Errorf("_class_name: want %s, got %s", class, quote.Text(raw))
	}
	delete(file, "_class_name")
	if heads, ok := file["num_attention_heads"]; ok && string(heads) != "null" {
		file["attention_head_dim"] = heads
	}
	defaults, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(defaults, &known); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(file)) {
		raw := file[key]
		supported := slices.Concat(encoderFixed[key], own[key])
		_, needed := known[key]
		switch {
		case supported != nil && !agrees(raw, supported):
			return fmt.Errorf("%s: only %s is supported, the file has %s", key, strings.Join(supported, " or "), quote.Text(raw))
		case !needed && !slices.Contains(optional, key):
			continue
		case string(raw) == "null" && !slices.Contains(optional, key):
			return fmt.Errorf("%s: want a value, got null", key)
		case string(raw) == "null" && key != "mid_block_type":
			continue
		case raw[0] == '[' && strings.Contains(string(raw), "null"):
			return fmt.Errorf("%s: want a list without null, got %s", key, quote.Text(raw))
		}
		one, err := json.Marshal(map[string]json.RawMessage{key: raw})
		if err != nil {
			return err
		}
		if err := json.Unmarshal(one, c); err != nil {
			return misread(key, err)
		}
	}
	return nil
}

// agrees reports whether a value, or every value of a list, is supported.
func agrees(raw json.RawMessage, supported []string) bool {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil && list != nil {
		return len(list) <= maxLevels && !slices.ContainsFunc(list, func(v json.RawMessage) bool { return !is(v, supported) })
	}
	return is(raw, supported)
}

// is reports whether a value is supported.
func is(raw json.RawMessage, supported []string) bool {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return false
	}
	plain, err := json.Marshal(v) // 1.0 as 1
	return err == nil && slices.Contains(supported, string(plain))
}

// misread describes a JSON error without naming Go types.
func misread(what string, err error) error {
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		return fmt.Errorf("%s: unexpected JSON %s", what, quote.Text(mistyped.Value))
	}
	return fmt.Errorf("%s: %w", what, quote.Error(err))
}
