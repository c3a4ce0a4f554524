package generate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// Model generates images. Several goroutines may use it at once, except for Close.
type Model struct {
	of    source
	close func() error
}

// source is a model of a certain kind.
type source interface {
	plan(ctx context.Context, r Request) (*Plan, error)
	samplers() []string
}

// Open opens a model file, the best or last snapshot of a run directory, or a Stable Diffusion model: a directory as diffusers saves it, or a
// single file. Pixel-space models compute in float32; they use no option but the device.
func Open(path string, o sd.Options) (*Model, error) {
	_, err := checkpoint.ReadDescription(path)
	switch {
	case err == nil:
		if o != (sd.Options{Device: o.Device}) {
			return nil, fmt.Errorf("model %s: a pixel-space model, computed in float32 and without replaceable parts: set no option but the device", quote.Path(path))
		}
		f, err := checkpoint.OpenFile(path, o.Device)
		if err != nil {
			return nil, err
		}
		return OwnFile(f)
	case !errors.Is(err, checkpoint.ErrNoDescription) && !errors.Is(err, checkpoint.ErrNoSnapshot) && !errors.As(err, new(*safetensors.FormatError)):
		return nil, err
	case errors.Is(err, checkpoint.ErrNoSnapshot) && !isDiffusers(path):
		return nil, fmt.Errorf("model %s: want a run directory with a snapshot (model-STEP.safetensors), or a diffusers directory with a model_index.json", quote.Path(path))
	}
	d, err := sd.Open(path, o)
	if err != nil {
		return nil, err
	}
	m := FromDiffusion(d)
	m.close = d.Close
	return m, nil
}

func isDiffusers(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "model_index.json"))
	return err == nil
}

// FromFile returns a pixel-space model that is open already, such as the one in package builtin. Closing it leaves f open.
// Without gradients the network computes with packed weights from now on (see [nn.Store.Pack]).
func FromFile(f *checkpoint.File) (*Model, error) {
	f.Network.Store().Pack()
	m, err := FromFunction(f.Function(), f.Description, f.Network, f.Path)
	if err != nil {
		return nil, err
	}
	p := m.of.(pixels)
	p.notices = f.Notices
	return &Model{of: p}, nil
}

// OwnFile is [FromFile] for a file that belongs to the model: closing the model closes f, and so does an error.
func OwnFile(f *checkpoint.File) (*Model, error) {
	m, err := FromFile(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	m.OnClose(func() error { f.Close(); return nil })
	return m, nil
}

// FromFunction returns a model of a consistency function, a denoiser or a jump model in memory: f, over net, as d describes it. The name
// is written into the settings of images. Closing the model leaves the network open.
func FromFunction(f any, d checkpoint.Description, net network.Network, name string) (*Model, error) {
	p := pixels{description: d, net: net, name: name}
	if err := p.is(f); err != nil {
		return nil, err
	}
	return &Model{of: p}, nil
}

// FromDiffusion returns a model from an open Stable Diffusion model. Close does not close m.
func FromDiffusion(m *sd.Model) *Model { return &Model{of: diffusion{m}} }

// OnClose makes Close call f as well, such as to close the model of [FromDiffusion].
func (m *Model) OnClose(f func() error) {
	before := m.close
	m.close = func() error {
		if before == nil {
			return f()
		}
		return errors.Join(before(), f())
	}
}

// SetName sets the name by which the settings of images call the model, in place of that of its file, and a hash of its files that they
// have beside it; "": none, as of a pixel-space model. Call it before the first plan.
func (m *Model) SetName(name, hash string) {
	switch of := m.of.(type) {
	case pixels:
		of.title = name
		m.of = of
	case diffusion:
		of.model.Title, of.model.Hash = name, hash
	}
}

// Close frees a model that Open or OwnFile opened, and calls the functions of OnClose.
func (m *Model) Close() error {
	if m.close == nil {
		return nil
	}
	return m.close()
}

// Samplers returns the valid names for Request.Sampler.
func (m *Model) Samplers() []string { return m.of.samplers() }

// Diffusion returns the Stable Diffusion model, nil for a pixel-space model.
func (m *Model) Diffusion() *sd.Model {
	d, _ := m.of.(diffusion)
	return d.model
}

// Stores returns the owners of the model's weights.
func (m *Model) Stores() (all []*nn.Store) {
	if p, ok := m.of.(pixels); ok {
		return []*nn.Store{p.net.Store()}
	}
	d := m.Diffusion()
	for _, t := range d.Texts {
		all = append(all, t.Store())
	}
	if d.UNet != nil {
		all = append(all, d.UNet.Store())
	}
	if a, ok := d.VAE.(interface{ Store() *nn.Store }); ok {
		all = append(all, a.Store())
	}
	return all
}

// Description says what a pixel-space model is; false for Stable Diffusion.
func (m *Model) Description() (checkpoint.Description, bool) {
	p, ok := m.of.(pixels)
	return p.description, ok
}

// Plan fills in the request's zero fields and reports what cannot work, without generating. A request that does not fit the model is a
// [*RequestError]. The plan has to be closed.
func (m *Model) Plan(ctx context.Context, r Request) (*Plan, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return m.of.plan(ctx, r)
}

// Images generates the request's images. An error is yielded last. It stops soon after ctx is done. With prompts it yields N images of each
// prompt in turn.
func (m *Model) Images(ctx context.Context, r Request) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		p, err := m.Plan(ctx, r)
		if err != nil {
			yield(Image{}, err)
			return
		}
		defer p.Close()
		p.Images(ctx)(yield)
	}
}
