package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/torch"
)

// Limits keep hostile files from asking for memory.
const maxJSON = 4 << 20

// readJSON reads a small file.
func readJSON(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxJSON {
		return nil, fmt.Errorf("%s: want a JSON file of at most %d MiB", path, maxJSON>>20)
	}
	return os.ReadFile(path)
}

// parts are the folders of a diffusers model and the classes that may be in them.
var parts = map[string][]string{
	"unet":           {"UNet2DConditionModel"},
	"vae":            {"AutoencoderKL"},
	"text_encoder":   {"CLIPTextModel"},
	"text_encoder_2": {"CLIPTextModelWithProjection"},
	"controlnet":     {"ControlNetModel"},
}

// OpenFolder reads a folder as diffusers writes it: model_index.json and a folder for each part. Weights are mapped, not read.
func OpenFolder(dir string, o Options) (_ *Model, err error) {
	index := filepath.Join(dir, "model_index.json")
	data, err := readJSON(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: want a folder with a model_index.json, as diffusers writes it: there is none", dir)
	}
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", index, err)
	}
	m := &Model{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if raw, ok := all["force_zeros_for_empty_prompt"]; ok {
		if err := json.Unmarshal(raw, &m.ZeroNegative); err != nil {
			return nil, fmt.Errorf("%s: force_zeros_for_empty_prompt: %w", index, err)
		}
	}
	for key, raw := range all {
		var class []*string // library and class; null for a part that was left out
		if strings.HasPrefix(key, "_") || json.Unmarshal(raw, &class) != nil || len(class) != 2 || class[1] == nil {
			continue
		}
		switch known, ok := parts[key]; {
		case ok && !slices.Contains(known, *class[1]):
			return nil, fmt.Errorf("%s: its %s is a %s: want a %s, of Stable Diffusion 1, 2 or XL", index, key, *class[1], strings.Join(known, " or "))
		case key == "transformer" || key == "text_encoder_3" || key == "prior":
			return nil, fmt.Errorf("%s: it has a %s (%s): want a model of Stable Diffusion 1, 2 or XL", index, key, *class[1])
		case key == "tokenizer":
			m.Tokenizer = filepath.Join(dir, key)
		case key == "tokenizer_2":
			m.Tokenizer2 = filepath.Join(dir, key)
		case key == "scheduler":
			if m.Scheduler, err = readJSON(filepath.Join(dir, key, "scheduler_config.json")); err != nil {
				return nil, err
			}
		case ok:
			c, err := openPart(filepath.Join(dir, key), o)
			if err != nil {
				return nil, err
			}
			m.closers = append(m.closers, c.Close)
			*m.part(key) = c
		}
	}
	if m.UNet == nil {
		return nil, fmt.Errorf("%s: it names no unet: want a model of Stable Diffusion 1, 2 or XL", index)
	}
	m.Kind = kindOf(m.UNet.Config)
	return m, nil
}

func (m *Model) part(key string) **Component {
	switch key {
	case "unet":
		return &m.UNet
	case "vae":
		return &m.VAE
	case "text_encoder":
		return &m.Text
	case "text_encoder_2":
		return &m.Text2
	}
	return &m.ControlNet
}

// kindOf tells what a network is by its config.json.
func kindOf(config []byte) Kind {
	var c struct {
		In      int             `json:"in_channels"`
		Added   string          `json:"addition_embed_type"`
		Cross   json.RawMessage `json:"cross_attention_dim"`
		Mid     *string         `json:"mid_block_type"`
		Reverse json.RawMessage `json:"reverse_transformer_layers_per_block"`
		Cond    int             `json:"time_cond_proj_dim"`
		Linear  bool            `json:"use_linear_projection"`
	}
	if json.Unmarshal(config, &c) != nil {
		return Unknown
	}
	switch {
	case c.Added == "text_time" && c.Mid != nil && *c.Mid == "UNetMidBlock2D":
		return SSD1B
	case c.Added == "text_time":
		return SDXL
	case c.Linear:
		return SD2
	case c.In == 9:
		return Inpaint15
	case c.Cond > 0:
		return LCM15
	}
	return SD15
}

// OpenComponent reads the folder of a single part, such as a ControlNet's or an autoencoder's.
func OpenComponent(path string, o Options) (*Component, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%s: want a folder with a config.json", path)
	}
	return openPart(path, o)
}

// openPart reads config.json and weights from a folder.
func openPart(dir string, o Options) (*Component, error) {
	config, err := readJSON(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	path, err := weightsFile(dir, o.Variant)
	if err != nil {
		return nil, err
	}
	w, err := torch.OpenWeights(path)
	if err != nil {
		return nil, err
	}
	return &Component{Config: config, Source: today(w), closer: w.Close}, nil
}

// stems are what weights' files are called, before the variant.
var stems = []string{"diffusion_pytorch_model", "model"}

// weightsFile finds a folder's weights: one file, or the index of several.
func weightsFile(dir, variant string) (string, error) {
	infix := ""
	if variant != "" {
		infix = "." + variant
	}
	for _, stem := range stems {
		for _, name := range []string{stem + infix + ".safetensors", stem + ".safetensors.index" + infix + ".json"} {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err == nil {
				return path, nil
			} else if !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var there []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".safetensors" || ext == ".bin" || strings.Contains(e.Name(), ".index.") {
			there = append(there, e.Name())
		}
	}
	what := "weights"
	if variant != "" {
		what = fmt.Sprintf("weights of the variant %q", variant)
	}
	if there == nil {
		return "", fmt.Errorf("%s: there are no %s", dir, what)
	}
	return "", fmt.Errorf("%s: there are no %s, but %s", dir, what, strings.Join(there, ", "))
}
