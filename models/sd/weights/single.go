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

// OpenFile reads a model, or a part of one, from a single file: in the layout of CompVis' and Stability's repositories, which most
// programs exchange, or a part as diffusers writes it. What is called .ckpt, .pt, .pth or .bin is a file of torch.save; its pickle is read
// for tensors, and everything else in it is skipped.
//
// Configurations come from the file, if [WriteSingle] wrote them there, from the folder Options.Config, or from the tensors: they are those
// of the published model of the same sizes, or have what can be read off the names and shapes.
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
		return nil, fmt.Errorf("%s: it is a LoRA, which is added to a model: want a model", quote.Path(path))
	case Inversion:
		return nil, fmt.Errorf("%s: it is a textual inversion embedding, which adds a word to prompts: want a model", quote.Path(path))
	case TAESD:
		return nil, fmt.Errorf("%s: it is a tiny autoencoder: want it as one, not as a model", quote.Path(path))
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
	return m, m.replace(o)
}

// check reports options that mean nothing.
func (o Options) check() error {
	if !slices.Contains(predictions, o.Prediction) {
		return fmt.Errorf("prediction: %s", suggest.OneOf(o.Prediction, predictions[1:]))
	}
	return nil
}

// fill makes a model's parts of a file.
func (m *Model) fill(w file, l layout, o Options) error {
	known, err := configsOf(w, o)
	if err != nil {
		return err
	}
	if o.EMA && l.unet == nil {
		return fmt.Errorf("want a network to take averages of training for: it is a %s", l.kind)
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
		if prediction == "" && m.inpaints() { // also Stable Diffusion 2's
			prediction = "epsilon"
		}
		m.Notices = append(m.Notices, m.assumed(prediction)...)
		m.Scheduler, err = kindOf(m.UNet.Config).scheduler(prediction, zeroSNR)
		return err
	}
	m.said = saidBy(m.Scheduler)
	return nil
}

// component makes a part of its tensors, with the configuration that is known or else found.
func (o Options) component(src nn.Source, config []byte, find func() (any, error)) (*Component, error) {
	if config != nil {
		return &Component{Config: config, Source: src}, nil
	}
	c, err := find()
	if err != nil && o.asPart { // another configuration may fit
		return &Component{Source: src, Inferred: true, unknown: quote.Error(err)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("no configuration is known for tensors of these sizes: %w", quote.Error(err))
	}
	if config, err = json.MarshalIndent(c, "", "  "); err != nil {
		return nil, err
	}
	return &Component{Config: config, Source: src, Inferred: true}, nil
}

// configKey is where a file's metadata have the configurations that WriteSingle was given, as JSON.
const configKey = "onestep.configs"

// configFiles are the files of configurations in a folder of diffusers'.
var configFiles = map[string]string{
	"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json",
	"unet": "unet/config.json", "vae": "vae/config.json", "controlnet": "controlnet/config.json",
	"text_encoder": "text_encoder/config.json", "text_encoder_2": "text_encoder_2/config.json",
}

// configsOf returns the configurations that a file has, or the folder that is named in its place.
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
			return nil, fmt.Errorf("%s: want a folder with configurations, as diffusers writes them: there are none", quote.Path(o.Config))
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

// rest is a file, and the names in it that no part has claimed yet.
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

// below yields the names with a prefix, without it, and claims them. Known constants are claimed, and not yielded.
func (r *rest) below(prefix string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range r.order {
			if short, ok := strings.CutPrefix(name, prefix); ok && r.left[name] {
				if prefix == "" && constant(name) {
					continue // of no part
				}
				delete(r.left, name)
				if !constant(name) && !yield(short) {
					return
				}
			}
		}
	}
}

// names returns what is left.
func (r *rest) names() []string {
	var list []string
	for _, name := range r.order {
		if r.left[name] {
			list = append(list, name)
		}
	}
	return list
}

// module gives a U-Net or a ControlNet today's names.
func (r *rest) module(prefix string, ours bool) *mapping {
	m := newMapping(r.file)
	pairs := map[string]string{}
	if !ours {
		pairs = theirForm(namesOf(r.file, prefix)).table().ours
	}
	for name := range r.below(prefix) {
		now, ok := rename(pairs, name)
		if !ok {
			now = name // today's, or unexpected
		}
		m.add(now, part{name: prefix + name})
	}
	return m
}

// averages takes the tensors of a network from the averages of training, whose names have no points.
func (r *rest) averages(m *mapping, prefix string) error {
	const theirs = "model_ema."
	for _, ours := range m.order {
		p := m.parts[ours]
		name := theirs + strings.ReplaceAll(strings.TrimPrefix(p.name, "model."), ".", "")
		shape, _, ok := r.Info(name)
		now, _, _ := r.Info(p.name)
		switch {
		case !ok || !strings.HasPrefix(prefix, "model."):
			return fmt.Errorf("want averages of training (%s) of every tensor of the network: there is none of %s", theirs, quote.Quoted(p.name))
		case !slices.Equal(shape, now):
			return fmt.Errorf("tensor %s: want the shape of what it is the average of, %v, got %v", quote.Quoted(name), now, shape)
		}
		r.left[p.name] = true
		delete(r.left, name)
		p.name = name
		m.parts[ours] = p
	}
	return nil
}

// vae gives an autoencoder today's names.
func (r *rest) vae(prefix string, ours bool) nn.Source {
	m := newMapping(r.file)
	levels := namesOf(r.file, prefix).count("decoder.up.%d.block.0.norm1.weight")
	pairs := vaeTable(levels).ours
	for name := range r.below(prefix) {
		if strings.HasPrefix(name, "loss.") || strings.HasPrefix(name, "model_ema.") {
			continue // of training
		}
		now := name
		if other, ok := rename(pairs, name); ok && !ours {
			now = strings.Replace(other, theirShortcut, ourShortcut, 1)
		}
		m.autoencoder(now, prefix+name)
	}
	return m
}

// text gives a text encoder today's names.
func (r *rest) text(t text) nn.Source {
	m := newMapping(r.file)
	if t.form == openCLIP {
		m.openCLIP(r, t.prefix)
		return m
	}
	for name := range r.below(t.prefix) {
		if name == textProjected && t.prefix == "" { // a file of its own
			m.add(name, part{name: t.prefix + name})
			continue
		}
		m.text(name, t.prefix+name)
	}
	return m
}

// sd2Text is where files of Stable Diffusion 2 have their text encoder.
const sd2Text = "cond_stage_model.model."

const theirProjection = "text_projection" // of OpenCLIP

// openCLIP adds the tensors of an encoder of OpenCLIP's. Stable Diffusion 2 uses it without its last layer and projection, which its
// published files have and converted ones may not.
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
