package lora

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// settings are peft's configuration of an adapter.
type settings struct {
	Rank          int
	Alpha         *float64
	RootRank      bool // the scale is alpha/√rank (Kalajdzievski 2023)
	alphas, ranks patterns
}

// alpha returns the module's alpha in the settings, or known if they have none.
func (s settings) alpha(path string, known float64) float64 {
	if v, ok := s.alphas.first(path); ok {
		return v
	}
	if s.Alpha != nil {
		return *s.Alpha
	}
	return known
}

// rank returns the module's rank in the settings.
func (s settings) rank(path string) int {
	if v, ok := s.ranks.first(path); ok {
		return int(v)
	}
	return s.Rank
}

// configs are settings by part; "" is for all parts.
type configs map[string]settings

func (c configs) of(part string) (settings, bool) {
	if part == "" {
		part = unetPart
	}
	s, ok := c[part]
	if !ok {
		s, ok = c[""]
	}
	return s, ok
}

// size is the cost of matching all patterns against one module.
func (c configs) size() (n int) {
	for _, s := range c {
		for _, p := range slices.Concat(s.alphas, s.ranks) {
			n += p.size
		}
	}
	return n
}

const (
	metadataKey = "lora_adapter_metadata" // diffusers' metadata key of peft's settings
	configName  = "adapter_config.json"   // peft's configuration file
)

// configs reads peft's settings from the file's metadata or from adapter_config.json.
func (f *File) configs(folder string) (configs, error) {
	data := []byte(f.Metadata[metadataKey])
	from := "metadata " + metadataKey
	if len(data) == 0 {
		if !strings.HasPrefix(filepath.Base(f.Path), "adapter_model.") && folder != f.Path {
			return nil, nil
		}
		var err error
		if data, err = plainfile.Read(filepath.Join(folder, configName), configjson.Most); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		from = configName
	}
	c, err := parseConfigs(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return c, nil
}

// parseConfigs reads peft's settings: for all parts, or by part with its name as a prefix of the keys.
func parseConfigs(data []byte) (configs, error) {
	var all map[string]json.RawMessage
	if err := configjson.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", err)
	}
	by := map[string]map[string]json.RawMessage{}
	for name, v := range all {
		part, key := "", name
		for _, p := range []string{unetPart, textPart, text2Part} {
			if rest, ok := strings.CutPrefix(name, p+"."); ok {
				part, key = p, rest
			}
		}
		if by[part] == nil {
			by[part] = map[string]json.RawMessage{}
		}
		by[part][key] = v
	}
	c := configs{}
	for part, keys := range by {
		var s settings
		for _, want := range []struct {
			key string
			to  any
		}{
			{"r", &s.Rank}, {"alpha", &s.Alpha}, {"lora_alpha", &s.Alpha}, {"alpha_pattern", &s.alphas}, {"rank_pattern", &s.ranks}, {"use_rslora", &s.RootRank},
		} {
			if raw, ok := keys[want.key]; ok {
				if err := json.Unmarshal(raw, want.to); err != nil {
					return nil, fmt.Errorf("%s: %w", want.key, quote.Error(err))
				}
			}
		}
		if s.Rank < 0 {
			return nil, fmt.Errorf("r: want a rank of at least 0, got %d", s.Rank)
		}
		var begun string
		if json.Unmarshal(keys["init_lora_weights"], &begun) == nil && slices.ContainsFunc(rebased, func(name string) bool { return strings.HasPrefix(begun, name) }) {
			return nil, fmt.Errorf("init_lora_weights: with %s the adapter needs modified base weights: convert it to a LoRA for the original weights with peft (save_pretrained)", quote.Quoted(begun))
		}
		c[part] = s
	}
	return c, nil
}

// rebased are prefixes of peft's initialisations that modify the base weights before training.
var rebased = []string{"pissa", "olora", "corda", "lora_ga", "loftq"}
