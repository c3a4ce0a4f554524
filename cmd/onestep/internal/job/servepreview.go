package job

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// wantTiny is what a tiny autoencoder may be.
const wantTiny = "a tiny autoencoder's (TAESD) directory or file"

// previewer is a tiny autoencoder that decodes previews.
type previewer struct {
	path     string
	channels int   // of its latents
	bytes    int64 // of its weights
	used     bool
	misfit   error // the model whose latents are others
}

// previewers are those of models by their names; "": of all other models that have latents.
type previewers map[string]*previewer

// previewers opens the tiny autoencoders, to find now what is wrong with them.
func (o Serve) previewers() (previewers, error) {
	all := previewers{}
	for _, text := range o.PreviewVAEs {
		name, path := splitName(text)
		if name == "" && path != text || path == "" {
			return nil, usage("--preview-vae: want PATH or NAME=PATH, got %s", quote.Quoted(text))
		}
		if before := all[name]; before != nil {
			what := "all models"
			if name != "" {
				what = "model " + quote.Text(name)
			}
			return nil, usage("--preview-vae: want one for %s, got %s and %s", what, quote.Path(before.path), quote.Path(path))
		}
		if err := There(Path{"--preview-vae", path, wantTiny, Either}); err != nil {
			return nil, err
		}
		tiny, err := sd.OpenTiny(path, torch.CPU, torch.Float32)
		if err != nil {
			return nil, fmt.Errorf("--preview-vae: %w", err)
		}
		p := &previewer{path: path, channels: tiny.Channels()}
		for _, t := range tiny.Tensors() {
			p.bytes += t.NumBytes()
		}
		tiny.Close()
		all[name] = p
	}
	return all, nil
}

// give gives a latent model the autoencoder that is for it, if there is one.
func (all previewers) give(m *served, files *weights.Model, dev torch.Device) error {
	p := cmp.Or(all[m.name], all[""])
	if p == nil {
		return nil
	}
	c, err := vae.ParseSpec(files.VAE.Config)
	if err != nil {
		return fmt.Errorf("--model: vae: %w", err)
	}
	if p.channels != c.Channels() {
		p.misfit = fmt.Errorf("--preview-vae %s: its latents have %d channels, those of model %s have %d: they are incompatible", quote.Path(p.path), p.channels, quote.Text(m.name), c.Channels())
		return nil
	}
	p.used = true
	m.bytes += p.bytes
	m.preview = func() (vae.Autoencoder, error) { return sd.OpenTiny(p.path, dev, torch.Float32) }
	return nil
}

// unused reports the autoencoders that no model uses.
func (o Serve) unused(all previewers, models []served) error {
	var names []string
	for _, m := range models {
		names = append(names, m.name)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch p := all[name]; {
		case p.used:
		case p.misfit != nil:
			return p.misfit
		case name == "":
			tell(o.Note, fmt.Sprintf("--preview-vae %s has no effect: no other model has latents to decode", quote.Path(p.path)))
		case slices.Contains(names, name):
			tell(o.Note, fmt.Sprintf("--preview-vae %s has no effect: model %s has no latents to decode", quote.Path(p.path), quote.Text(name)))
		default:
			return usage("--preview-vae %s: the name of a model: %s", quote.Path(p.path), suggest.OneOf(name, names))
		}
	}
	return nil
}
