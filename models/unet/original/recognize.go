package original

import (
	"errors"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/nn"
)

// Recognize tells which code's network src has, by names and shapes: ok is false if it has none of them. For weights of these codes that are
// no such network, such as a classifier, err says what they are. Whether guided-diffusion's attention has the new order is not in the weights:
// see [Infer].
func Recognize(src nn.Source) (c Code, ok bool, err error) {
	at := files{src, ""}
	switch {
	case (at.has("time_embed.0.weight") || at.has("middle_block.0.in_layers.0.weight")) && at.has("input_blocks.0.0.weight"):
		for name := range src.Names() {
			if strings.Contains(name, "transformer_blocks.") { // of latent diffusion
				return "", false, nil
			}
		}
		return openAICode(at)
	case hasEDM(src, ""), hasEDM(src, edmPrefix):
		return EDM, true, nil
	}
	return "", false, nil
}

// files are tensors below a prefix.
type files struct {
	nn.Source
	prefix string
}

func (f files) has(name string) bool { return f.dims(name) != nil }

// dims returns a tensor's shape; nil if there is none.
func (f files) dims(name string) []int {
	dims, _, ok := f.Info(f.prefix + name)
	if ok && dims == nil {
		return []int{}
	}
	return dims
}

// size returns one of a tensor's sizes; 0 if there is none.
func (f files) size(name string, dim int) int {
	if dims := f.dims(name); len(dims) > dim {
		return dims[dim]
	}
	return 0
}

func openAICode(at files) (Code, bool, error) {
	switch rank := len(at.dims("middle_block.1.qkv.weight")); {
	case !at.has("output_blocks.0.0.in_layers.2.weight") && at.has("out.0.weight"), at.has("out.2.positional_embedding"):
		return "", true, errors.New("it is a noisy classifier of openai/guided-diffusion, which generates no images: want one of its diffusion models")
	case rank == 4:
		return ConsistencyModels, true, nil
	case rank == 3:
		return GuidedDiffusion, true, nil
	case at.has("middle_block.0.in_layers.2.weight"):
		return "", true, errors.New("it has a U-Net by the names of openai's code, but no attention in the middle block (middle_block.1.qkv.weight)")
	}
	return "", false, nil
}

// hasEDM reports whether src has a network of EDM below a prefix.
func hasEDM(src nn.Source, prefix string) bool {
	at := files{src, prefix}
	return at.has("map_layer0.weight") && at.has("map_layer1.weight") && side(at) > 0
}

// side returns the image size in the name of EDM's first convolution; 0 if there is none.
func side(at files) int {
	for name := range at.Names() {
		rest, ok := strings.CutPrefix(name, at.prefix+"enc.")
		if !ok || !strings.HasSuffix(rest, "_conv.weight") {
			continue
		}
		var w, h int
		if n, err := fmt.Sscanf(rest, "%dx%d_conv.weight", &w, &h); n == 2 && err == nil && w == h && w > 0 && w <= 1<<12 {
			return w
		}
	}
	return 0
}

// Settings are facts about a model that its weights do not show. Zero fields are unknown.
type Settings struct {
	ImageSize int   // height and width of the images, in pixels
	Heads     int   // attention heads, if their number is the same at every level
	HeadDim   int   // channels of an attention head
	NewOrder  *bool // guided-diffusion's use_new_attention_order
}

// unknown is an error for what a file's weights do not show, with the setting that does.
type unknown struct{ what, setting string }

func (u unknown) Error() string { return u.what }

// Unknown returns the name of the setting that an error of [Infer] asks for, as the code's own flags name it; "" for other errors.
func Unknown(err error) string {
	var u unknown
	if errors.As(err, &u) {
		return u.setting
	}
	return ""
}

// Infer returns the layout of weights that [Recognize] has recognized, and what it assumed by the published models. Its error names tensors
// that are missing, unexpected, or of the wrong shape.
func Infer(src nn.Source, code Code, s Settings) (l Layout, assumed []string, err error) {
	if code == EDM {
		l, err = inferEDM(src)
	} else {
		l, assumed, err = inferOpenAI(src, code, s)
	}
	if err != nil {
		return Layout{}, nil, err
	}
	l.Config = l.Config.WithDefaults()
	if err := l.Config.Validate(); err != nil {
		return Layout{}, nil, err
	}
	if fields := differ(l.Config, l.fixed(l.Config)); len(fields) > 0 {
		return Layout{}, nil, fmt.Errorf("%s has no such network: %s", l.Code.Name(), strings.Join(fields, ", ")) //quote: differ quotes values
	}
	if err := l.Fits(src); err != nil {
		return Layout{}, nil, err
	}
	return l, assumed, nil
}

// want is the error of a tensor that is missing or does not fit.
func want(at files, name, what string) error {
	dims := at.dims(name)
	if dims == nil {
		return fmt.Errorf("tensor %s is missing", quote.Text(at.prefix+name))
	}
	return fmt.Errorf("tensor %s has shape %v, expected %s", quote.Text(at.prefix+name), dims, what)
}

// channels returns the output channels of a convolution.
func channels(at files, name string) (int, error) {
	dims := at.dims(name)
	if len(dims) != 4 || dims[0] < 1 || dims[0] > 1<<16 {
		return 0, want(at, name, "a convolution's [out, in, k, k]")
	}
	return dims[0], nil
}

// embedding returns the channels of the noise label's embedding by the two layers on it, whose width has to be 4 times as large; waves is the
// number of sines and cosines for each channel.
func embedding(at files, first, second string, waves int) (int, error) {
	dims := at.dims(first)
	if len(dims) != 2 || dims[1] < 2*waves || dims[1]%waves != 0 || dims[0] != 4*(dims[1]/waves) {
		return 0, want(at, first, fmt.Sprintf("[4·n, %d·n]", waves))
	}
	if next := at.dims(second); len(next) != 2 || next[0] != dims[0] || next[1] != dims[0] {
		return 0, want(at, second, fmt.Sprintf("[%d, %d]", dims[0], dims[0]))
	}
	return dims[1] / waves, nil
}

// multiples returns each level's channels in units of one.
func multiples(levels []int, unit int) ([]int, error) {
	var mult []int
	for i, c := range levels {
		if c%unit != 0 {
			return nil, fmt.Errorf("level %d has %d channels, want a multiple of the first convolution's %d", i, c, unit)
		}
		mult = append(mult, c/unit)
	}
	return mult, nil
}

// most is the largest number of blocks that is looked for.
const most = 1024
