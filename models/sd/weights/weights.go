// Package weights reads and writes Stable Diffusion's weights in the layouts that they are published in: the folders of diffusers and
// transformers, and single files as in CompVis' and Stability's repositories, of safetensors or of torch.save. Tensors have today's names:
// diffusers' for networks and autoencoders, transformers' with the prefix text_model for text encoders. They are views of the mapped
// files, and nothing is read before it is used.
//
// Files come from strangers. Nothing in them is executed, pickles included; see [OpenFile].
package weights

import (
	"errors"
	"fmt"
	"os"

	"github.com/onestep-go/onestep/torch/nn"
)

// Kind is what a model is.
type Kind int

// The kinds of models.
const (
	Unknown    Kind = iota
	SD15            // Stable Diffusion 1.x
	Inpaint15       // the same for inpainting
	LCM15           // a full latent consistency model of its shape
	SD2             // Stable Diffusion 2.x
	SDXL            // Stable Diffusion XL, and what has its shape
	SSD1B           // Segmind's smaller SDXL
	ControlNet      // a ControlNet alone
	VAE             // an autoencoder alone
	TextModel       // a text encoder alone
	TAESD           // a tiny autoencoder, which package vae opens
	LoRA            // an adapter, which is added to a model
	Refiner         // SDXL's second model, which is not built
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

// Family names the models whose networks take texts of so many features; "": they are not known.
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

// Model is the parts of a model. A part that it does not have is nil, or "".
type Model struct {
	Path string // as it was asked for
	Kind Kind

	UNet, VAE, ControlNet *Component
	Text, Text2           *Component // text encoders
	Tokenizer, Tokenizer2 string     // folders; "": CLIP's own vocabulary
	Scheduler             []byte     // scheduler_config.json; nil: none

	// ZeroNegative: no negative prompt is zeros in place of an empty text, as SDXL's model_index.json says.
	ZeroNegative bool

	// Notices say what was assumed where a single file cannot say it.
	Notices []string

	// Spec describes the model by the keys of ModelSpec without their prefix, such as title, author and license: what the metadata of a
	// single file say, the title by default the name of the file or directory, and what [WriteSingle] writes besides what it knows itself.
	Spec map[string]string

	Ignored []string // names of tensors in a single file that belong to no part, such as averages of training

	said    said
	closers []func() error
}

// Component is a part's config.json, and its weights under today's names.
type Component struct {
	Config []byte
	nn.Source

	Files []string // that the weights are in

	// Inferred: there was no config.json, and Config is that of the published model whose tensors have these shapes, or has what can be
	// read off them. What they do not tell is as in Stable Diffusion 1, also an autoencoder's scaling factor.
	Inferred bool

	notice  string // of what is in the file
	unknown error  // why no configuration could be inferred; Config is nil
	closer  func() error
	closed  bool
}

// notice adds a notice, if there is one.
func (m *Model) notice(text string) {
	if text != "" {
		m.Notices = append(m.Notices, text)
	}
}

// Close closes the files. Networks that were built from them have to be closed before.
func (m *Model) Close() error {
	for _, c := range []*Component{m.UNet, m.VAE, m.ControlNet, m.Text, m.Text2} {
		if c != nil {
			c.closed = c.closed || len(m.closers) > 0 // those that are no files stay
		}
	}
	var err error
	for _, f := range m.closers {
		err = errors.Join(err, f())
	}
	m.closers = nil
	return err
}

// Close closes the files of a component that was opened alone.
func (c *Component) Close() error {
	if c.closer == nil {
		return nil
	}
	c.closed = true
	return c.closer()
}

// Closed tells whether the files of the weights were closed.
func (c *Component) Closed() bool { return c.closed }

// Options say which files are read, and how.
type Options struct {
	Variant string // of a folder's files: "fp16" for model.fp16.safetensors; "": those without one
	Mixed   bool   // parts that do not have the variant are read without, as diffusers does; otherwise that is an error

	// EMA takes the network of a single file from the averages of training (model_ema.) that some have besides the last weights.
	EMA bool

	// Of single files: a folder of diffusers' whose configurations and tokenizers belong to the file; its weights are not read.
	Config string
	// What the network predicts, "epsilon", "v_prediction" or "sample". "": as the folder's scheduler, the file or Config says, or else, for the
	// tensors of a single file do not tell it, v_prediction for SD2 (2.0 and 2.1 with 768 pixels; their models for 512 pixels want
	// "epsilon") and epsilon for the other kinds and for inpainting.
	Prediction string

	Parts Parts // from elsewhere

	asPart bool // what is read is one of those
}

// Open reads a model: a folder of diffusers', or a single file.
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
