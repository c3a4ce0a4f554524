// Package weights reads and writes Stable Diffusion's weights in their published layouts: directories of diffusers and transformers, and
// single files in the original layout of CompVis' and Stability's repositories, as safetensors or files of torch.save. Tensors are renamed
// to diffusers' names for U-Nets and autoencoders, and transformers' names with the prefix text_model for text encoders. They are views of
// memory-mapped files, read when they are used.
//
// Files are untrusted: nothing in them is executed, pickles included; see [OpenFile].
package weights

import (
	"errors"
	"fmt"
	"os"

	"github.com/onestep-go/onestep/torch/nn"
)

// Kind is the family of a model, or the type of a file with only a component or an add-on.
type Kind int

// The kinds.
const (
	Unknown    Kind = iota
	SD15            // Stable Diffusion 1.x
	Inpaint15       // Stable Diffusion 1.x inpainting
	LCM15           // a full latent consistency model of Stable Diffusion 1's shape
	SD2             // Stable Diffusion 2.x
	SDXL            // Stable Diffusion XL, and models of its shape
	SSD1B           // Segmind's distilled, smaller SDXL
	ControlNet      // a lone ControlNet
	VAE             // a lone autoencoder
	TextModel       // a lone text encoder
	TAESD           // a tiny autoencoder, which package vae opens
	LoRA            // a LoRA adapter
	Refiner         // SDXL's refiner, which is not supported
	Inversion       // a textual inversion embedding
)

var kindNames = [...]string{
	"unknown", "sd15", "sd15-inpaint", "lcm15", "sd2", "sdxl", "ssd1b", "controlnet", "vae", "text-encoder", "taesd", "lora", "sdxl-refiner", "textual-inversion",
}

// String returns a short name, such as "sd15".
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return kindNames[k]
}

// Family returns the model families by the width of their text features; "": unknown.
func Family(width int) string {
	switch width {
	case 768:
		return "Stable Diffusion 1"
	case 1024:
		return "Stable Diffusion 2"
	case 2048:
		return "Stable Diffusion XL or SSD-1B"
	}
	return ""
}

// Model has the components of a model. Missing components are nil, or "".
type Model struct {
	Path string // as given to Open
	Kind Kind

	UNet, VAE, ControlNet *Component
	Text, Text2           *Component // text encoders
	Tokenizer, Tokenizer2 string     // directories; "": CLIP's built-in vocabulary
	Scheduler             []byte     // scheduler_config.json; nil: none

	// ZeroNegative: without a negative prompt, its embedding is zeros instead of that of an empty prompt: force_zeros_for_empty_prompt in
	// SDXL's model_index.json.
	ZeroNegative bool

	// Notices describe assumptions and changes that the user should know of, such as a prediction type that a single file does not contain.
	Notices []string

	// Spec has ModelSpec metadata by keys without prefix, such as title, author and license: those of a single file, with the name of the
	// file or directory as default title. [WriteSingle] writes them, besides those that it derives from the model.
	Spec map[string]string

	Ignored []string // names of tensors in a single file that belong to no component, such as EMA weights

	said    said
	closers []func() error
}

// Component is a component's config.json and its weights, with diffusers' or transformers' names.
type Component struct {
	Config []byte
	nn.Source

	Files []string // of the weights

	Guidance Scales // of a guidance-distilled U-Net

	// Inferred: there was no config.json. Config is that of the published model with the same shapes, or inferred from names and shapes,
	// with Stable Diffusion 1's values for the rest, such as an autoencoder's scaling factor.
	Inferred bool

	notice  string // about the file's content
	unknown error  // why no configuration could be inferred; then Config is nil
	closer  func() error
	closed  bool
}

// notice adds a notice unless it is "".
func (m *Model) notice(text string) {
	if text != "" {
		m.Notices = append(m.Notices, text)
	}
}

// Close closes the files. Close the networks that use their weights first.
func (m *Model) Close() error {
	for _, c := range []*Component{m.UNet, m.VAE, m.ControlNet, m.Text, m.Text2} {
		if c != nil {
			c.closed = c.closed || len(m.closers) > 0 // components without files stay open
		}
	}
	var err error
	for _, f := range m.closers {
		err = errors.Join(err, f())
	}
	m.closers = nil
	return err
}

// Close closes the files of a component from [OpenComponent].
func (c *Component) Close() error {
	if c.closer == nil {
		return nil
	}
	c.closed = true
	return c.closer()
}

// Closed reports whether the files of the weights were closed.
func (c *Component) Closed() bool { return c.closed }

// Options select the files to read and how to read them.
type Options struct {
	Variant string // of the files in a directory: "fp16" for model.fp16.safetensors; "": no variant
	Mixed   bool   // components without the variant are read from their default files, as in diffusers; otherwise that is an error

	// EMA loads the U-Net of a single file from its EMA weights (model_ema.), which some files have besides the last weights.
	EMA bool

	// For single files: a diffusers directory with the file's configurations and tokenizers; its weights are not read.
	Config string
	// The prediction type: "epsilon", "v_prediction" or "sample". "": from the directory's scheduler, the file or Config. A single file
	// usually does not contain it: the default is then v_prediction for SD2 (right for 2.0 and 2.1 at 768 pixels; their 512 pixel models
	// need "epsilon") and epsilon for the other kinds and for inpainting.
	Prediction string

	Parts Parts // replacements

	asPart bool // the path is one of Parts
}

// Open opens a model: a diffusers directory or a single file.
func Open(path string, o Options) (*Model, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return OpenFolder(path, o)
	}
	return OpenFile(path, o)
}
