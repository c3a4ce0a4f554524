package sd

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// names are the names of a model's trained networks, as those of its directories.
const unetName = "unet"

var textNames = []string{"text_encoder", "text_encoder_2"}

// networks yields the U-Net and the text encoders by their names.
func (m *Model) networks() iter.Seq2[string, *nn.Store] {
	return func(yield func(string, *nn.Store) bool) {
		if m.UNet != nil && !yield(unetName, m.UNet.Store()) {
			return
		}
		for i, t := range m.Texts {
			if !yield(textNames[i], t.Store()) {
				return
			}
		}
	}
}

// Parameters yields the weights of the U-Net and the text encoders, named unet.NAME, text_encoder.NAME and text_encoder_2.NAME, so that a
// trainer can train both; the autoencoder is not trained. To train the U-Net alone, use Model.UNet.
func (m *Model) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for network, st := range m.networks() {
			for name, p := range st.Parameters() {
				if !yield(network+"."+name, p) {
					return
				}
			}
		}
	}
}

// Load sets the weights that [Model.Parameters] yields, such as those of a snapshot of a training run. values has to have exactly these, with
// the right shapes; else nothing is changed, and the error lists all mismatches.
func (m *Model) Load(values iter.Seq2[string, *torch.Tensor]) error {
	if err := m.Loaded(); err != nil {
		return err
	}
	given := map[string]*torch.Tensor{}
	for name, v := range values {
		given[name] = v
	}
	var wrong []string
	known := map[string]bool{}
	for name, p := range m.Parameters() {
		known[name] = true
		switch v := given[name]; {
		case v == nil:
			wrong = append(wrong, "missing "+quote.Text(name))
		case !slices.Equal(v.Shape(), p.Shape()):
			wrong = append(wrong, fmt.Sprintf("%s has shape %v, want %v", quote.Text(name), v.Shape(), p.Shape()))
		}
	}
	for name := range given {
		if !known[name] {
			wrong = append(wrong, "unexpected "+quote.Text(name))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		const most = 8
		return fmt.Errorf("load weights: %d tensors do not match the model: %s", len(wrong), strings.Join(wrong[:min(len(wrong), most)], "; "))
	}
	return torch.Run(m.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for name, p := range m.Parameters() {
				p.CopyFrom(s, given[name])
			}
			return nil
		})
	})
}

// Copy returns a model whose U-Net and text encoders have weights of their own, frozen and equal to m's, such as for EMA weights. It shares
// m's autoencoder: close the copy before m.
func (m *Model) Copy() (_ *Model, err error) {
	if err := m.Loaded(); err != nil {
		return nil, err
	}
	c := *m
	c.UNet, c.Texts, c.closers, c.shares = nil, nil, nil, true
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("copy the model %s: %w", quote.Quoted(m.Name()), err), c.Close())
		}
	}()
	if m.UNet != nil {
		st := m.UNet.Store()
		if c.UNet, err = unet.From(m.UNet.Config(), nn.Stored{Store: st}, st.Device(), st.DType()); err != nil {
			return nil, err
		}
	}
	for _, t := range m.Texts {
		st := t.Store()
		e, err := clip.From(t.Config(), nn.Stored{Store: st}, st.Device(), st.DType())
		if err != nil {
			return nil, err
		}
		c.Texts = append(c.Texts, TextEncoder{t.Tokenizer, e})
	}
	return &c, nil
}

// Write writes the model as a diffusers directory, as [weights.WriteFolder] does: model_index.json, unet, text_encoder, tokenizer, vae and
// scheduler. [Open] reads it with the same images, and so does diffusers, except for what the returned notices say: a tiny autoencoder with a
// pooling branch (TAEF2) is not one that diffusers has. Its class is written as AutoencoderTinyPool of a library onestep, so that diffusers
// does not take it for another and decode wrongly.
func (m *Model) Write(dir string, o weights.WriteOptions) (notices []string, err error) {
	if err := m.Usable(); err != nil {
		return nil, err
	}
	w := &weights.Model{Path: m.Path, Kind: m.Kind, Scheduler: m.Scheduler, ZeroNegative: m.ZeroNegative}
	add := func(to **weights.Component, config any, st *nn.Store) {
		if err != nil {
			return
		}
		var data []byte
		if data, err = json.MarshalIndent(config, "", "  "); err == nil {
			*to = &weights.Component{Config: data, Source: nn.Stored{Store: st}}
		}
	}
	add(&w.UNet, m.UNet.Config(), m.UNet.Store())
	if w.UNet != nil {
		w.UNet.Guidance = m.Guidance
	}
	for i, t := range m.Texts {
		add([]**weights.Component{&w.Text, &w.Text2}[i], t.Config(), t.Store())
	}
	spec, st, failed := vae.SpecOf(m.VAE)
	if failed != nil {
		return nil, failed
	}
	add(&w.VAE, spec, st)
	if err != nil {
		return nil, err
	}
	o.Tokenizer = func(dir string, second bool) error {
		t := m.Texts[0].Tokenizer
		if second {
			t = m.Texts[1].Tokenizer
		}
		return t.Save(dir)
	}
	if err := weights.WriteFolder(dir, w, o); err != nil {
		return nil, err
	}
	if t := spec.Tiny; t != nil {
		if t.Pool {
			notices = append(notices, "the vae is a tiny autoencoder with a pooling branch (TAEF2), which diffusers does not have: onestep reads the model, diffusers only with a vae given to it")
		}
		if half, ok := m.VAE.(interface{ Encodes() bool }); o.DecoderOnly || ok && !half.Encodes() {
			notices = append(notices, "the vae has only a decoder: the model generates images from prompts, but takes no input images")
		}
	}
	return notices, nil
}
