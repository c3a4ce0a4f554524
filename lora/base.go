package lora

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// otherBase describes the base model that the adapter seems to be for, with the evidence; "" if it is the table's model or unknown.
func (f *File) otherBase(t *table, m Match) string {
	family := weights.Family(t.width())
	if width := f.width(); width > 0 && t.width() > 0 && width != t.width() {
		return fmt.Sprintf("%s (its U-Net takes text features of width %d), and %s takes width %s", cmp.Or(weights.Family(width), "another model"), width, m.what, widthOf(t.width(), family))
	}
	if name := f.foreign(); name != "" && len(m.Unmatched) > 0 {
		return name
	}
	if len(m.Misshapen) == 0 && len(m.Matched) > 0 { // weaker evidence must not reject an adapter that applies in part
		return ""
	}
	name, why := f.likelyBase()
	if name == "" || family == "" || strings.HasPrefix(family, name) {
		return ""
	}
	return fmt.Sprintf("%s (%s), and %s is of %s", name, why, m.what, family)
}

// widthOf is a width of text features with the family that has it.
func widthOf(width int, family string) string {
	if family == "" {
		return fmt.Sprint(width)
	}
	return fmt.Sprintf("%d (%s)", width, family)
}

// baseNames are the base models by prefixes of their names in metadata.
var baseNames = []struct{ begins, name string }{
	{"sdxl", "Stable Diffusion XL"}, {"stable-diffusion-xl", "Stable Diffusion XL"}, {"sd_v1", "Stable Diffusion 1"}, {"sd_1", "Stable Diffusion 1"},
	{"stable-diffusion-v1", "Stable Diffusion 1"}, {"sd_v2", "Stable Diffusion 2"}, {"sd_2", "Stable Diffusion 2"}, {"stable-diffusion-v2", "Stable Diffusion 2"},
	{"sd3", "Stable Diffusion 3"}, {"stable-diffusion-3", "Stable Diffusion 3"}, {"flux", "Flux"},
}

// likelyBase returns the family that the adapter is for, judged by its text encoders' modules or its metadata, and the evidence; "" if
// unknown.
func (f *File) likelyBase() (name, why string) {
	for _, m := range f.Modules {
		if m.key.part == text2Part {
			return "Stable Diffusion XL", "it has modules for a second text encoder"
		}
	}
	for _, m := range f.Modules {
		if path := flatten(m.key.path); m.key.part != textPart || !strings.HasSuffix(path, "_q_proj") && !strings.HasSuffix(path, "_k_proj") {
			continue
		}
		if width := f.inputs(m); width == 1024 { // 768 is of Stable Diffusion 1, and of the first of XL
			return weights.Family(width), fmt.Sprintf("its text encoder has width %d", width)
		}
	}
	for _, key := range []string{"ss_base_model_version", "modelspec.architecture"} {
		for _, b := range baseNames {
			if says := f.Metadata[key]; strings.HasPrefix(strings.ToLower(says), b.begins) {
				return b.name, fmt.Sprintf("its metadata %s is %s", key, quote.Quoted(says))
			}
		}
	}
	return "", ""
}

// width returns the width of the text features that the adapter's U-Net takes, from its cross-attention modules; 0 if it has none.
func (f *File) width() int {
	for _, m := range f.Modules {
		if path := flatten(m.key.path); slices.ContainsFunc([]string{"attn2_to_k", "attn2_to_v"}, func(end string) bool { return strings.HasSuffix(path, end) }) {
			if width := f.inputs(m); width > 0 {
				return width
			}
		}
	}
	return 0
}

// inputs is the number of inputs of a module's layer; 0 if unknown.
func (f *File) inputs(m *Module) int {
	shape := m.shapes[diff]
	if m.Kind != Difference {
		var err error
		if shape, err = f.shape(m); err != nil {
			return 0
		}
	}
	if len(shape) < 2 {
		return 0
	}
	return shape[1]
}

// foreigners are substrings of module names, as in the file or flattened, in adapters for models of other families.
var foreigners = []struct{ contains, name string }{
	{"double_blocks_", "Flux"}, {"single_transformer_blocks_", "Flux"}, {"joint_blocks_", "Stable Diffusion 3"}, {"transformer.transformer_blocks", "Stable Diffusion 3 or Flux"},
	{"lora_te3_", "Stable Diffusion 3"}, {"lora_prior", "Stable Cascade"}, {"motion_modules_", "AnimateDiff"}, {"lora_transformer_", "a transformer"},
}

// foreign returns the unsupported family that an adapter is for, judged by its module names; "" if there is no evidence.
func (f *File) foreign() string {
	for _, m := range f.Modules {
		for _, other := range foreigners {
			if strings.Contains(m.key.path, other.contains) || strings.Contains(flatten(m.key.path), other.contains) {
				return other.name
			}
		}
	}
	return ""
}
