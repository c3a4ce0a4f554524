package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/torch/nn"
)

// OpenFile opens a model, or a component, from a single file: in the original layout of CompVis' and Stability's repositories, or a
// component in diffusers' layout. Files named .ckpt, .pt, .pth or .bin are files of torch.save: only the tensors in the pickle are read,
// and nothing is executed.
//
// Configurations come from the file's metadata, if [WriteSingle] wrote it, from the directory Options.Config, or from the tensors: that of
// the published model with the same shapes, or one inferred from names and shapes.
func OpenFile(path string, o Options) (_ *Model, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	w, err := openWeights(path)
	if err != nil {
		return nil, err
	}
	m := &Model{Path: path, closers: []func() error{w.Close}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	l, err := sniff(w)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	m.Kind = l.kind
	switch l.kind {
	case Refiner:
		return nil, fmt.Errorf("%s: it is the refiner of Stable Diffusion XL, which is not supported: want the base model", quote.Path(path))
	case LoRA:
		return nil, fmt.Errorf("%s: it is a LoRA, which is applied to a model: want a model", quote.Path(path))
	case Inversion:
		return nil, fmt.Errorf("%s: it is a textual inversion embedding, which adds a word to prompts: want a model", quote.Path(path))
	case TAESD:
		return nil, fmt.Errorf("%s: it is a tiny autoencoder: want a model", quote.Path(path))
	}
	m.notice(noticeOf(w))
	m.Spec = specOf(path, metadataOf(w))
	if err := m.fill(w, l, o); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	for _, p := range slots {
		if c := *p.in(m); c != nil {
			c.Files, c.notice = pathsOf(path, w), noticeOf(w)
		}
	}
	if c := m.UNet; c != nil {
		m.notice(c.readGuidance(metadataOf(w)))
	}
	return m, m.replace(o)
}

// check returns an error for invalid options.
func (o Options) check() error {
	if !slices.Contains(predictions, o.Prediction) {
		return fmt.Errorf("prediction: %s", suggest.OneOf(o.Prediction, predictions[1:]))
	}
	return nil
}

// fill sets the model's components from a file.
func (m *Model) fill(w file, l layout, o Options) error {
	known, err := configsOf(w, o)
	if err != nil {
		return err
	}
	if o.EMA && l.unet == nil {
		return fmt.Errorf("EMA weights were requested, but the file is a %s without a U-Net", l.kind)
	}
	rest := newRest(w)
	if l.unet != nil {
		src := rest.module(*l.unet, l.ours)
		if o.EMA {
			if err := rest.averages(src, *l.unet); err != nil {
				return err
			}
		}
		m.UNet, err = o.component(src, known["unet"], func() (any, error) { return unetConfig(src) })
		if err != nil {
			return err
		}
	}
	if l.control != nil {
		src := rest.module(*l.control, l.ours)
		m.ControlNet, err = o.component(src, known["controlnet"], func() (any, error) { return controlNetConfig(src) })
		if err != nil {
			return err
		}
	}
	if l.vae != nil {
		src := rest.vae(*l.vae, l.oursVAE)
		m.VAE, err = o.component(src, known["vae"], func() (any, error) { return vaeConfig(src, m.Kind == SDXL || m.Kind == SSD1B) })
		if err != nil {
			return err
		}
	}
	for i, t := range l.texts {
		src := rest.text(t)
		key, at := "text_encoder", &m.Text
		if i > 0 {
			key, at = "text_encoder_2", &m.Text2
		}
		if i > 1 {
			return fmt.Errorf("it has %d text encoders: want one or two", len(l.texts))
		}
		if *at, err = o.component(src, known[key], func() (any, error) { return clipConfig(src, t.form) }); err != nil {
			return err
		}
	}
	m.Ignored = rest.names()
	if m.UNet == nil {
		return nil
	}
	m.ZeroNegative = m.Kind == SDXL || m.Kind == SSD1B
	if index, ok := known["model_index"]; ok {
		parsed, err := parseModelIndex(index)
		if err != nil {
			return err
		}
		m.ZeroNegative = parsed.zero
	}
	for key, at := range map[string]*string{"tokenizer": &m.Tokenizer, "tokenizer_2": &m.Tokenizer2} {
		if st, err := os.Stat(filepath.Join(o.Config, key)); o.Config != "" && err == nil && st.IsDir() {
			*at = filepath.Join(o.Config, key)
		}
	}
	if m.Scheduler = known["scheduler"]; m.Scheduler == nil {
		prediction, zeroSNR := o.prediction(w)
		m.said = said{prediction, zeroSNR, nil}
		if prediction == "" && m.inpaints() { // also for Stable Diffusion 2
			prediction = "epsilon"
		}
		m.Notices = append(m.Notices, m.assumed(prediction)...)
		m.Scheduler, err = KindOf(m.UNet.Config).scheduler(prediction, zeroSNR)
		return err
	}
	m.said = saidBy(m.Scheduler)
	return nil
}

// component makes a component from its tensors, with the given configuration or else an inferred one.
func (o Options) component(src nn.Source, config []byte, find func() (any, error)) (*Component, error) {
	if config != nil {
		return &Component{Config: config, Source: src}, nil
	}
	c, err := find()
	if err != nil && o.asPart { // the replaced component's configuration may match
		return &Component{Source: src, Inferred: true, unknown: quote.Error(err)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("no configuration can be inferred from these tensors: %w", quote.Error(err))
	}
	if config, err = json.MarshalIndent(c, "", "  "); err != nil {
		return nil, err
	}
	return &Component{Config: config, Source: src, Inferred: true}, nil
}

// configKey is the metadata key of the configurations that WriteSingle writes, as JSON.
const configKey = "onestep.configs"

// configFiles are the configuration files in a diffusers directory.
var configFiles = map[string]string{
	"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json",
	"unet": "unet/config.json", "vae": "vae/config.json", "controlnet": "controlnet/config.json",
	"text_encoder": "text_encoder/config.json", "text_encoder_2": "text_encoder_2/config.json",
}

// configsOf returns the configurations in the directory Options.Config, or else in the file.
func configsOf(w file, o Options) (map[string]json.RawMessage, error) {
	known := map[string]json.RawMessage{}
	if o.Config != "" {
		for key, name := range configFiles {
			data, err := readConfig(filepath.Join(o.Config, name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			if err == nil {
				known[key] = data
			}
		}
		if len(known) == 0 {
			return nil, fmt.Errorf("%s: want a diffusers directory with configurations, but there are none", quote.Path(o.Config))
		}
		return known, nil
	}
	if data, ok := metadataOf(w)[configKey]; ok {
		if err := json.Unmarshal([]byte(data), &known); err != nil {
			return nil, fmt.Errorf("metadata %s: want a JSON object: %w", configKey, quote.Error(err))
		}
	}
	return known, nil
}

// rest is a file and the names in it that no component has claimed yet.
type rest struct {
	file
	left  map[string]bool
	order []string
}

func newRest(w file) *rest {
	r := &rest{file: w, left: map[string]bool{}}
	for name := range w.Names() {
		r.left[name] = name != saysVelocity && name != saysZeroSNR
		r.order = append(r.order, name)
	}
	return r
}

// below yields the names with a prefix, without the prefix, and claims them. Known constants are claimed but not yielded.
func (r *rest) below(prefix string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range r.order {
			if short, ok := strings.CutPrefix(name, prefix); ok && r.left[name] {
				if prefix == "" && constant(name) {
					continue // of no component
				}
				delete(r.left, name)
				if !constant(name) && !yield(short) {
					return
				}
			}
		}
	}
}

// names returns the unclaimed names.
func (r *rest) names() []string {
	var list []string
	for _, name := range r.order {
		if r.left[name] {
			list = append(list, name)
		}
	}
	return list
}

// module renames a U-Net or a ControlNet to diffusers' names.
func (r *rest) module(prefix string, ours bool) *mapping {
	m := newMapping(r.file)
	pairs := map[string]string{}
	if !ours {
		pairs = theirForm(namesOf(r.file, prefix)).table().ours
	}
	for name := range r.below(prefix) {
		now, ok := rename(pairs, name)
		if !ok {
			now = name // diffusers' name, or unexpected
		}
		m.add(now, part{name: prefix + name})
	}
	return m
}

// averages replaces the tensors of a network by the EMA weights, whose names have no dots.
func (r *rest) averages(m *mapping, prefix string) error {
	const theirs = "model_ema."
	for _, ours := range m.order {
		p := m.parts[ours]
		name := theirs + strings.ReplaceAll(strings.TrimPrefix(p.name, "model."), ".", "")
		shape, _, ok := r.Info(name)
		now, _, _ := r.Info(p.name)
		switch {
		case !ok || !strings.HasPrefix(prefix, "model."):
			return fmt.Errorf("want EMA weights (%s) of every tensor of the network, but %s has none", theirs, quote.Quoted(p.name))
		case !slices.Equal(shape, now):
			return fmt.Errorf("tensor %s: want the shape %v of the tensor that it is the EMA of, got %v", quote.Quoted(name), now, shape)
		}
		r.left[p.name] = true
		delete(r.left, name)
		p.name = name
		m.parts[ours] = p
	}
	return nil
}

// vae renames an autoencoder to diffusers' names.
func (r *rest) vae(prefix string, ours bool) nn.Source {
	m := newMapping(r.file)
	levels := namesOf(r.file, prefix).count("decoder.up.%d.block.0.norm1.weight")
	pairs := vaeTable(levels).ours
	for name := range r.below(prefix) {
		if strings.HasPrefix(name, "loss.") || strings.HasPrefix(name, "model_ema.") {
			continue // of the training loss
		}
		now := name
		if other, ok := rename(pairs, name); ok && !ours {
			now = strings.Replace(other, theirShortcut, ourShortcut, 1)
		}
		m.autoencoder(now, prefix+name)
	}
	return m
}

// text renames a text encoder to transformers' names.
func (r *rest) text(t text) nn.Source {
	m := newMapping(r.file)
	if t.form == openCLIP {
		m.openCLIP(r, t.prefix)
		return m
	}
	for name := range r.below(t.prefix) {
		if name == textProjected && t.prefix == "" { // a separate file
			m.add(name, part{name: t.prefix + name})
			continue
		}
		m.text(name, t.prefix+name)
	}
	return m
}

// sd2Text is the prefix of the text encoder in files of Stable Diffusion 2.
const sd2Text = "cond_stage_model.model."

const theirProjection = "text_projection" // of OpenCLIP

// openCLIP adds the tensors of an OpenCLIP text encoder. Stable Diffusion 2 uses it without the last layer and the projection, which
// published files have and converted files may not.
func (m *mapping) openCLIP(r *rest, prefix string) {
	const published = 24
	has := namesOf(r.file, prefix)
	layers := has.count("transformer.resblocks.%d.ln_1.weight")
	penultimate := prefix == sd2Text && (has(theirProjection) || layers == published)
	pairs := openCLIPTable(layers).ours
	last := fmt.Sprintf("transformer.resblocks.%d.", layers-1)
	for name := range r.below(prefix) {
		theirs := prefix + name
		layer, bias := strings.CutSuffix(name, ".attn.in_proj_bias")
		if !bias {
			layer, _ = strings.CutSuffix(name, ".attn.in_proj_weight")
		}
		switch now, ok := rename(pairs, name); {
		case strings.HasPrefix(name, "visual."):
		case penultimate && (strings.HasPrefix(name, last) || name == theirProjection):
		case name == theirProjection:
			m.add(textProjected, part{name: theirs, turn: true})
		case layer != name:
			end := ".weight"
			if bias {
				end = ".bias"
			}
			at, _ := rename(pairs, layer+".ln_1")
			at = strings.TrimSuffix(at, "layer_norm1")
			for i, q := range []string{"q", "k", "v"} {
				m.add(at+"self_attn."+q+"_proj"+end, part{name: theirs, index: i, count: 3})
			}
		case ok:
			m.add(now, part{name: theirs})
		default:
			m.add(name, part{name: theirs}) // unexpected
		}
	}
}
