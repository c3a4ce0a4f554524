package weights

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Keys of ModelSpec (github.com/Stability-AI/ModelSpec, 1.0) in a file's metadata that describe the network.
const (
	specArchitecture = specPrefix + "architecture"
	specPrediction   = specPrefix + "prediction_type"
	specTitle        = specPrefix + "title"
	specResolution   = specPrefix + "resolution"
	specPrefix       = "modelspec."
)

// carried are the keys of ModelSpec that stay valid in another layout or data type. Hashes do not.
var carried = []string{
	"title", "description", "author", "date", "license", "usage_hint", "category", "tags", "thumbnail", "merged_from", "resolution", "trigger_phrase",
	"timestep_range",
}

// specOf returns the ModelSpec values in a file's metadata, by keys without prefix. The default title is the file's name.
func specOf(path string, metadata map[string]string) map[string]string {
	spec := map[string]string{"title": nameOf(path)}
	for _, key := range carried {
		if v := metadata[specPrefix+key]; v != "" {
			spec[key] = v
		}
	}
	return spec
}

// nameOf returns the name of a directory, or of a file without extension.
func nameOf(path string) string {
	name := filepath.Base(filepath.Clean(path))
	return strings.TrimSuffix(name, filepath.Ext(name))
}

// changed returns the part of a description that stays valid for another network.
func changed(spec map[string]string) map[string]string {
	left := map[string]string{}
	for _, key := range []string{"license", "resolution"} {
		if v := spec[key]; v != "" {
			left[key] = v
		}
	}
	return left
}

// Architecture returns the names by which ModelSpec calls a model's architecture and its prediction type, which is epsilon, v_prediction or
// sample; "" if it has no name for the architecture.
func Architecture(kind Kind, prediction string) (architecture, predicts string) {
	if predicts = prediction; prediction == "v_prediction" {
		predicts = "v"
	}
	switch kind {
	case SD15, LCM15:
		architecture = "stable-diffusion-v1"
	case Inpaint15:
		architecture = "stable-diffusion-v1-inpainting"
	case SDXL, SSD1B:
		architecture = "stable-diffusion-xl-v1-base"
	case SD2:
		if architecture = "stable-diffusion-v2-512"; predicts == "v" {
			architecture = "stable-diffusion-v2-768-v"
		}
	}
	return architecture, predicts
}

// spec returns the ModelSpec metadata of a model that is written to path; nil if ModelSpec has no name for its architecture.
func (m *Model) spec(path string) map[string]string {
	architecture, prediction := Architecture(m.Kind, predicts(m.Scheduler))
	if architecture == "" {
		return nil
	}
	spec := map[string]string{}
	for key, v := range m.Spec {
		if slices.Contains(carried, key) {
			spec[specPrefix+key] = v
		}
	}
	if spec[specTitle] == "" {
		spec[specTitle] = nameOf(path)
	}
	if size := m.size(); spec[specResolution] == "" && size != "" {
		spec[specResolution] = size
	}
	maps.Copy(spec, map[string]string{
		specPrefix + "sai_model_spec": "1.0.1", specArchitecture: architecture, specPrediction: prediction,
		specPrefix + "implementation": "https://github.com/Stability-AI/generative-models",
	})
	return spec
}

// size returns the width and height, in pixels, of the training images by the network's configuration; "": unknown.
func (m *Model) size() string {
	var c struct {
		Sample int `json:"sample_size"`
	}
	if json.Unmarshal(m.UNet.Config, &c) != nil || c.Sample < 1 {
		return ""
	}
	const factor = 8 // of the autoencoders of all these models
	return fmt.Sprintf("%dx%d", factor*c.Sample, factor*c.Sample)
}
