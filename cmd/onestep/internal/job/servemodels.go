package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/builtintext"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// served is a model of a server, which opens it on demand.
type served struct {
	name  string
	file  string // name of its file or directory
	hash  string // of its files; "": none
	bytes int64  // of its weights
	open  func() (*generate.Model, error)
	files *modelFiles
	there func() error // an error if its files have gone

	preview func() (vae.Autoencoder, error) // opens the tiny autoencoder of previews; nil: there is none
}

// wantServed is what --model of the server may be.
const wantServed = "a model file, a run directory, a diffusers directory, builtin or " + builtintext.Name

// models checks the models' files, without reading weights.
func (o Serve) models(dev torch.Device) (all []served, err error) {
	tiny, err := o.previewers()
	if err != nil {
		return nil, err
	}
	by := map[string]string{}
	for _, text := range o.Models {
		name, path := splitName(text)
		if name == "" && path != text || path == "" {
			return nil, usage("--model: want PATH or NAME=PATH, got %s", quote.Quoted(text))
		}
		if name == "" {
			name = modelName(path)
		}
		if utf8.RuneCountInString(name) > quote.Most || strings.TrimSpace(name) != name || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return nil, usage("--model %s: want a name of at most %d printable characters, got %s: pass NAME=PATH", quote.Path(path), quote.Most, quote.Quoted(name))
		}
		if before, ok := by[name]; ok {
			return nil, usage("--model: %s and %s have the same name, %s: pass NAME=PATH for one of them", quote.Path(before), quote.Path(path), quote.Quoted(name))
		}
		by[name] = path
		m, err := o.model(name, path, dev, tiny)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, o.unused(tiny, all)
}

func (o Serve) model(name, given string, dev torch.Device, tiny previewers) (m served, err error) {
	m.name = name
	where := ownModel("--model", given, wantServed)
	if err := There(where); err != nil {
		return m, err
	}
	if m.hash, err = builtinHash(given); err != nil {
		return m, err
	}
	if given, err = stored(given); err != nil {
		return m, err
	}
	m.file = fileName(given)
	path, note, err := modelOfRun("--model", given)
	if err != nil {
		return m, err
	}
	if m.files, err = filesOf(path); err != nil {
		return m, fmt.Errorf("--model: %w", err)
	}
	m.there = func() error { return errors.Join(There(where), m.files.there()) }
	d, err := describes(path)
	if err == nil {
		if o.DType != "" && o.DType != "f32" {
			tell(o.Note, fmt.Sprintf("model %s computes in f32: --dtype is for Stable Diffusion", quote.Text(name)))
		}
		m.bytes = 4 * int64(d.Network.Count())
		m.open = m.files.before(func() (*generate.Model, error) { return openPixels(path, dev) })
		return m, nil
	}
	switch _, missing := os.Stat(filepath.Join(path, "model_index.json")); {
	case !noPixels(err):
		return m, fmt.Errorf("--model: %w", err)
	case errors.Is(err, checkpoint.ErrNoSnapshot) && missing != nil:
		return m, wholeModel("--model", path, false, fmt.Errorf("%s: %w; want %s", quote.Path(path), err, wantServed))
	}
	if note != "" {
		tell(o.Note, note)
	}
	dtype, _ := training.DTypeNamed(o.DType)
	how := sd.Options{Device: dev, DType: dtype, Variant: o.Variant}
	files, err := weights.Open(path, how.Files())
	if err != nil {
		return m, wholeModel("--model", path, false, err)
	}
	defer func() { _ = files.Close() }()
	tell(o.Note, files.Notices...)
	if err := draws(path, files); err != nil {
		return m, wholeModel("--model", path, false, err)
	}
	n, err := sd.EstimateNeed(files, how, sd.Drawing{})
	if err != nil {
		return m, fmt.Errorf("--model: %w", err)
	}
	m.bytes = int64(n.Weights)
	m.open = m.files.before(func() (*generate.Model, error) {
		g, err := generate.Open(path, how)
		if err == nil && o.Graphs {
			g.Diffusion().UseGraphs(func(err error) { tell(o.Note, "model "+quote.Text(name)+": "+withoutGraphs(err)) })
		}
		return g, err
	})
	return m, tiny.give(&m, files, dev)
}

// openPixels opens a model that describes can read; closing it closes the file.
func openPixels(path string, dev torch.Device) (*generate.Model, error) {
	f, err := openFile(path, dev)
	if err != nil {
		return nil, err
	}
	return generate.OwnFile(f)
}
