package sd

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/replay"
)

// TextEncoder is a text encoder and its tokenizer.
type TextEncoder struct {
	Tokenizer *prompt.Tokenizer
	*clip.Encoder
}

// Model is a latent diffusion model. It owns its weights. Several goroutines may use it at once. With [Options.Without] it has only some of
// its components, and the others are nil.
type Model struct {
	Path      string        // of the directory or file
	Title     string        // name in the settings of images, in place of the path's; "": by the path
	Hash      string        // of the files, in the settings of images; "": none
	Kind      weights.Kind  // the model family, by its weights
	Texts     []TextEncoder // one, or two for SDXL
	UNet      *unet.UNet    // its prediction type is in Scheduler
	VAE       vae.Autoencoder
	Scheduler []byte // scheduler_config.json: the noise schedule and prediction type of its training

	// ZeroNegative: without a negative prompt, its embedding is zeros instead of that of an empty prompt (SDXL; diffusers'
	// force_zeros_for_empty_prompt).
	ZeroNegative bool

	Guidance weights.Scales // guidance scales with which a guidance-distilled U-Net was trained

	shares  bool             // the autoencoder is another model's
	network *models.Replayed // the U-Net; nil: without CUDA graphs
	decodes *replay.Graphs
	closers []func() error // of the files, closed after the networks
}

// Options configure how a model is loaded. The zero value loads it in float32 on the CPU.
type Options struct {
	Device  torch.Device
	DType   torch.DType // of the weights and of all computation: Float32, BFloat16 or Float16
	Variant string      // of the files in a directory: "fp16" for diffusion_pytorch_model.fp16.safetensors
	Mixed   bool        // components without the variant are read from their default files
	EMA     bool        // use the EMA weights of the U-Net in a single file that has both

	Config, Prediction string // what a single file does not contain; see [weights.Options]

	// Replacements for the model's components, each a directory or a file; see [weights.Parts].
	UNet, TextEncoder, TextEncoder2, VAE string

	// Without names components that are not loaded, and are nil in the model. Training on cached latents and text features needs only the
	// U-Net, and making them only the others.
	Without Components

	TinyVAE string // a tiny autoencoder that replaces the model's VAE; see [OpenTiny]
	Tile    int    // images with a side of more pixels are encoded and decoded in tiles; 0: never
}

// Components selects components of a model.
type Components struct {
	UNet, Text, VAE bool // Text: the text encoders with their tokenizers
}

// Files returns the options for opening the model's files.
func (o Options) Files() weights.Options {
	parts := weights.Parts{UNet: o.UNet, VAE: o.VAE, Text: o.TextEncoder, Text2: o.TextEncoder2}
	if o.TinyVAE != "" {
		parts.VAE = ""
	}
	return weights.Options{Variant: o.Variant, Mixed: o.Mixed, EMA: o.EMA, Config: o.Config, Prediction: o.Prediction, Parts: parts}
}

// Open loads a model from a diffusers directory or a single file. Weights that have the requested data type are memory-mapped views of the
// files, read from disk when they are used; others are converted one by one.
func Open(path string, o Options) (*Model, error) {
	if err := o.checkDType(); err != nil {
		return nil, err
	}
	files, err := weights.Open(path, o.Files())
	if err != nil {
		return nil, err
	}
	return From(files, o)
}

func (o Options) checkDType() error {
	if !o.DType.IsFloat() || o.DType == torch.Float64 {
		return fmt.Errorf("want float32, bfloat16 or float16 for a model, got %s", o.DType)
	}
	return nil
}

// From makes a model from open files, for programs that inspect the files before loading the weights:
//
//	files, err := weights.Open(path, o.Files())
//	need, err := sd.EstimateNeed(files, o, sd.Drawing{})
//	m, err := sd.From(files, o)
//
// The model owns the files and closes them on error.
func From(files *weights.Model, o Options) (_ *Model, err error) {
	path := files.Path
	m := &Model{Path: path, Kind: files.Kind, Scheduler: files.Scheduler, ZeroNegative: files.ZeroNegative, closers: []func() error{files.Close}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := o.checkDType(); err != nil {
		return nil, err
	}
	if files.UNet == nil && !o.Without.UNet || files.Text == nil && !o.Without.Text {
		return nil, fmt.Errorf("%s: want a complete model with text encoder, unet and vae; the file is a %s", quote.Path(path), files.Kind)
	}
	used := *files
	if o.TinyVAE != "" {
		used.VAE = nil
	}
	if err := Check(&used); err != nil { // before anything is converted, and for all components at once
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	for i, part := range []*weights.Component{files.Text, files.Text2} {
		if part == nil || o.Without.Text {
			continue
		}
		t, err := openText(part, []string{files.Tokenizer, files.Tokenizer2}[i], i == 1, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
		m.Texts = append(m.Texts, t)
	}
	if !o.Without.UNet {
		c, err := unet.ParseConfig(files.UNet.Config)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
		m.Guidance = files.UNet.Guidance
		if m.UNet, err = unet.From(c, files.UNet, o.Device, o.DType); err != nil {
			return nil, fmt.Errorf("%s: unet: %w", quote.Path(path), err)
		}
	}
	if !o.Without.VAE {
		if m.VAE, err = m.openVAE(files.VAE, o); err != nil {
			return nil, err
		}
	}
	return m, m.check()
}

func openText(part *weights.Component, tokenizer string, second bool, o Options) (t TextEncoder, err error) {
	c, err := weights.ParseText(part.Config, second)
	if err != nil {
		return t, err
	}
	switch {
	case tokenizer != "":
		if t.Tokenizer, err = prompt.Open(tokenizer); err != nil {
			return t, err
		}
	case second:
		t.Tokenizer = prompt.Default().WithPad(0)
	default:
		t.Tokenizer = prompt.Default()
	}
	if n := t.Tokenizer.Vocab(); n > c.Vocab {
		return t, fmt.Errorf("the tokenizer has a vocabulary of %d tokens and the text encoder of %d: they are incompatible", n, c.Vocab)
	}
	if n := t.Tokenizer.Max(); n > c.Positions {
		return t, fmt.Errorf("the tokenizer's maximum length is %d tokens and the text encoder's is %d: they are incompatible", n, c.Positions)
	}
	t.Encoder, err = clip.From(c, part, o.Device, o.DType)
	return t, err
}

// openVAE opens the model's own autoencoder or its replacement.
func (m *Model) openVAE(own *weights.Component, o Options) (vae.Autoencoder, error) {
	if o.TinyVAE != "" {
		a, err := OpenTiny(o.TinyVAE, o.Device, o.DType)
		if err != nil {
			return nil, err
		}
		a.Tile = o.Tile
		return a, nil
	}
	where := m.Path
	if o.VAE != "" {
		where = o.VAE
	}
	if own == nil {
		return nil, fmt.Errorf("%s: it has no vae: pass one from another directory or file", quote.Path(where))
	}
	c, err := vae.ParseSpec(own.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(where), err)
	}
	a, err := c.From(own, o.Device, o.DType, o.Tile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(where), err)
	}
	return a, nil
}

// OpenTiny opens a tiny autoencoder as [vae.OpenTiny] does, and also reads files of torch.save such as taesd_decoder.pth.
func OpenTiny(path string, dev torch.Device, dtype torch.DType) (*vae.Tiny, error) {
	return vae.OpenTinyBy(func(path string) (vae.File, error) { return weights.OpenTensors(path) }, path, dev, dtype)
}

// check reports a U-Net and an autoencoder that are incompatible.
func (m *Model) check() error {
	if m.UNet == nil || m.VAE == nil {
		return nil
	}
	c := m.UNet.Config()
	z := m.VAE.Channels()
	if c.OutChannels != z || (c.InChannels != z && c.InChannels != 2*z+1) {
		return fmt.Errorf("%s: the unet has %d input and %d output channels, and the vae has %d latent channels: want the same number, or %d input channels for inpainting",
			quote.Path(m.Path), c.InChannels, c.OutChannels, z, 2*z+1)
	}
	return nil
}

// Name returns the model's name: its Title, or else the last element of its path, without extension.
func (m *Model) Name() string {
	if m.Title != "" {
		return m.Title
	}
	return NameOf(m.Path)
}

// NameOf is the last element of a model's path, without extension.
func NameOf(path string) string {
	name := filepath.Base(filepath.Clean(path))
	for _, ext := range []string{".safetensors", ".ckpt"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

// Inpaints reports whether this is an inpainting model: its network also takes a mask and the masked image's latents.
func (m *Model) Inpaints() bool {
	return m.UNet != nil && m.UNet.Config().InChannels > m.UNet.Config().OutChannels
}

// Distilled reports whether this is a guidance-distilled model: its network has a guidance embedding, as a full latent consistency model
// has.
func (m *Model) Distilled() bool { return m.UNet != nil && m.UNet.Config().TimeCondProjDim > 0 }

// pools reports whether the network also takes pooled text features. Without the network, two text encoders are those of SDXL.
func (m *Model) pools() bool {
	if m.UNet == nil {
		return len(m.Texts) > 1
	}
	return m.UNet.Config().AdditionEmbedType != ""
}

// store returns that of the U-Net, or of a component that is there; nil: there is none.
func (m *Model) store() *nn.Store {
	if m.UNet != nil {
		return m.UNet.Store()
	}
	for _, t := range m.Texts {
		return t.Store()
	}
	if a, ok := m.VAE.(interface{ Store() *nn.Store }); ok {
		return a.Store()
	}
	return nil
}

// DType returns the type of the weights and of latents.
func (m *Model) DType() torch.DType {
	if st := m.store(); st != nil {
		return st.DType()
	}
	return torch.Float32
}

// Device returns where the weights are.
func (m *Model) Device() torch.Device {
	if st := m.store(); st != nil {
		return st.Device()
	}
	return torch.CPU
}

// Size returns the width and height, in pixels, of the images that the model was trained on; 0 without a U-Net or an autoencoder.
func (m *Model) Size() (width, height int) {
	if m.UNet == nil || m.VAE == nil {
		return 0, 0
	}
	n := m.UNet.Config().SampleSize
	switch {
	case len(n) == 0:
		return 512, 512
	case len(n) == 1:
		return n[0] * m.VAE.Factor(), n[0] * m.VAE.Factor()
	}
	return n[1] * m.VAE.Factor(), n[0] * m.VAE.Factor()
}

// Usable returns nil if the model can generate images, and otherwise an error: it is nil, was not made by Open or From, has not all of its
// components (see [Options.Without]), or is closed (torch.ErrFreed).
func (m *Model) Usable() error {
	if err := m.Loaded(); err != nil {
		return err
	}
	if m.UNet == nil || m.VAE == nil || len(m.Texts) == 0 {
		return fmt.Errorf("the model %s does not have all of its components: open it with its unet, text encoders and vae", quote.Quoted(m.Name()))
	}
	return nil
}

// Loaded returns nil if the model has at least one network and is open, and otherwise an error as [Model.Usable] does.
func (m *Model) Loaded() error {
	switch {
	case m == nil:
		return errors.New("want a model, got nil: use Open to load one")
	case m.UNet == nil && m.VAE == nil && len(m.Texts) == 0:
		return errors.New("the model has no networks: use Open to load one")
	}
	if st := m.store(); st != nil && st.Closed() {
		return fmt.Errorf("the model %s was closed (%w): close it only after the last use, or open it again", quote.Quoted(m.Name()), torch.ErrFreed)
	}
	return nil
}

// Network returns the U-Net as samplers call it: after [Model.UseGraphs], as CUDA graphs.
func (m *Model) Network() models.Network {
	if m.network != nil {
		return m.network
	}
	return m.UNet
}

// Decode returns the images [B, 3, H, W] in [-1, 1] of latents, as m.VAE.Decode does: after [Model.UseGraphs], as a CUDA graph.
func (m *Model) Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor {
	latents = latents.To(s, m.VAE.DType())
	if m.network == nil {
		return m.VAE.Decode(s, latents)
	}
	return m.decodes.Call(s, m.VAE, func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return m.VAE.Decode(s, in[0]) }, latents)
}

// UseGraphs makes samplers run the U-Net and the decoder on a GPU as CUDA graphs, from the third call with inputs of the same shapes on; see
// [replay.Graphs]. A graph holds the memory that its network needs until the model is closed, or another takes its place. failed is told once
// if that is not possible, and generation goes on without. Call it before the model is used; on a CPU it has no effect.
func (m *Model) UseGraphs(failed func(error)) {
	if m.UNet == nil || m.VAE == nil || !m.Device().IsCUDA() {
		return
	}
	var once sync.Once
	tell := func(err error) { once.Do(func() { failed(err) }) }
	m.network = &models.Replayed{Net: m.UNet, Store: m.UNet.Store(), Graphs: &replay.Graphs{Failed: tell}}
	m.decodes = &replay.Graphs{Failed: tell}
}

// Close frees the weights and closes the files.
func (m *Model) Close() error {
	if m.network != nil {
		m.network.Close()
		m.decodes.Close()
	}
	for _, t := range m.Texts {
		t.Close()
	}
	if m.UNet != nil {
		m.UNet.Close()
	}
	if m.VAE != nil && !m.shares {
		m.VAE.Close()
	}
	var err error
	for _, f := range m.closers {
		err = errors.Join(err, f())
	}
	m.closers = nil
	return err
}
