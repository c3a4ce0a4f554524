package job

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/training"
)

// Convert holds the options for writing a model in another layout or dtype.
type Convert struct {
	Model, Variant, Config, Prediction string
	Mixed, EMA                         bool // see weights.Options
	Parts                              weights.Parts
	Out, DType, OutVariant             string
	Layout                             string // of a pixel-space model: see [Layouts]; "": onestep, unless it is that
	Overwrite                          bool
	Unchecked                          bool // write incomplete models too
	DecoderOnly                        bool // see weights.WriteOptions
}

// Converted describes the files written.
type Converted struct {
	Path  string `json:"path"`
	Kind  string `json:"kind"`
	DType string `json:"dtype"` // "": unchanged

	Ignored []string `json:"ignored"` // tensors of a single file that belong to no component
}

// Run writes the model. Remarks go to note.
func (o Convert) Run(ctx context.Context, note func(string)) (Converted, error) {
	return o.run(ctx, note, nil)
}

// run calls change on the model and writes it; the function that change returns runs afterwards.
func (o Convert) run(ctx context.Context, note func(string), change func(m *weights.Model, as *torch.DType) (func() error, error)) (_ Converted, err error) {
	single := strings.EqualFold(filepath.Ext(o.Out), ".safetensors")
	switch {
	case o.Model == "":
		return Converted{}, usage("--model is missing: a diffusers directory or a single file")
	case o.Out == "":
		return Converted{}, usage("--out is missing: FILE.safetensors for a single file, DIR for a diffusers directory")
	case slices.Contains([]string{".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"}, strings.ToLower(filepath.Ext(strings.TrimSuffix(o.Out, "/")))):
		return Converted{}, usage("--out: want FILE.safetensors or DIR, got %s", quote.Quoted(o.Out))
	case o.Mixed && o.Variant == "":
		return Converted{}, usage("--mixed-variant needs --variant")
	case single && o.OutVariant != "":
		return Converted{}, usage("--out-variant: single files have no variants")
	case single && o.DecoderOnly:
		return Converted{}, usage("--decoder-only: want a diffusers directory as --out, since single files have no tiny autoencoder")
	}
	if o.Model, err = stored(o.Model); err != nil {
		return Converted{}, err
	}
	if err := ofRuns(note, map[string]*string{"--model": &o.Model}); err != nil {
		return Converted{}, err
	}
	w := weights.WriteOptions{Overwrite: o.Overwrite, Variant: o.OutVariant, DecoderOnly: o.DecoderOnly, Tokenizer: func(dir string, second bool) error {
		t := prompt.Default()
		if second {
			t = t.WithPad(0)
		}
		return t.Save(dir)
	}}
	if o.DType != "" {
		d, ok := training.DTypeNamed(o.DType)
		if !ok {
			return Converted{}, usage("--dtype: want %s, got %s", strings.Join(DTypes(), ", "), quote.Quoted(o.DType))
		}
		w.DType = &d
	}
	reads := append(replaced(o.Parts.UNet, o.Parts.Text, o.Parts.Text2, o.Parts.VAE), Path{"--model", o.Model, wantDiffusion + ", or " + wantModel, WholeModel},
		Path{"--model-config", o.Config, "a diffusers directory", Folder})
	if err := There(reads...); err != nil {
		return Converted{}, err
	}
	if err := apart(o.Out, o.Model, reads...); err != nil {
		return Converted{}, err
	}
	if err := Writable(o.Out); err != nil {
		return Converted{}, err
	}
	if change == nil {
		if got, is, err := o.pixels(note); is || err != nil {
			return got, err
		}
	}
	m, err := weights.Open(o.Model, weights.Options{Variant: o.Variant, Mixed: o.Mixed, EMA: o.EMA, Config: o.Config, Prediction: o.Prediction, Parts: o.Parts})
	if err != nil {
		return Converted{}, wholeModel("--model", o.Model, true, err)
	}
	defer m.Close()
	if err := sd.Check(m); err != nil && !o.Unchecked {
		return Converted{}, fmt.Errorf("%s: %w; pass --unchecked to convert it anyway", quote.Path(o.Model), err)
	} else if err != nil {
		note(fmt.Sprintf("%s: %v", o.Model, err))
	}
	for _, n := range m.Notices {
		note(n)
	}
	if n := len(m.Ignored); n > 0 {
		note(fmt.Sprintf("skipped %s of no component of the model, such as %s", plural.N(n, "tensor"), quote.Text(m.Ignored[0])))
	}
	for _, c := range []*weights.Component{m.UNet, m.VAE, m.ControlNet, m.Text, m.Text2} {
		if c != nil {
			c.Source = interrupted{c.Source, ctx}
		}
	}
	if change != nil {
		var done func() error
		if done, err = change(m, w.DType); err != nil {
			return Converted{}, fmt.Errorf("%s: %w", quote.Path(o.Model), err)
		}
		defer func() { err = errors.Join(err, done()) }()
	}
	if err := makeDirectories(o.Out); err != nil {
		return Converted{}, err
	}
	out := Converted{Path: o.Out, Kind: m.Kind.String(), DType: o.DType, Ignored: append([]string{}, m.Ignored...)}
	if single {
		if m.Tokenizer != "" {
			if t, err := prompt.Open(m.Tokenizer); err == nil && t.Vocab() != prompt.Default().Vocab() {
				note(fmt.Sprintf("the model has a tokenizer of its own, which single files cannot hold: use it with --model-config %s", quote.Path(filepath.Dir(m.Tokenizer))))
			}
		}
		return out, weights.WriteSingle(o.Out, m, w)
	}
	return out, weights.WriteFolder(filepath.Clean(o.Out), m, w)
}

// interrupted is a source that returns the context's error once it is cancelled.
type interrupted struct {
	nn.Source
	ctx context.Context
}

// Get implements nn.Source.
func (v interrupted) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	if err := v.ctx.Err(); err != nil {
		return nil, err
	}
	return v.Source.Get(s, name)
}
