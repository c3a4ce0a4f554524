package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/generate"
)

// model is a model of the engine. Its fields are guarded by Engine.mu, and those of an open model do not change.
type model struct {
	Model
	opened
	at    openness
	known *profile // since it was first open; nil: never
	used  bool     // by a batch, while it runs
	fresh bool     // no batch has used it since it was opened
	last  int      // Engine.clock when it was last used
}

// opened is what an open model has.
type opened struct {
	is      *generate.Model // nil: not open
	cache   *lora.Cache     // of a Stable Diffusion model's adapters
	decoder vae.Autoencoder // of previews; nil: there are none, or it is a pixel-space model
}

type openness int

const (
	closed  openness = iota
	opening          // or being closed
	open
)

// info describes the model for clients.
func (m *model) info() Info {
	var info Info
	if m.known != nil {
		info = m.known.Info
	}
	info.Name, info.File, info.Loaded = m.Name, m.File, m.at == open
	return info
}

// load opens the model; the caller has claimed it by the state opening.
func (m *model) load(adapters lora.CacheOptions) (o opened, known *profile, err error) {
	err = guard(func() error {
		if o.is, err = m.Open(); err != nil {
			return err
		}
		if known, err = profileOf(o.is); err == nil {
			o.decoder, err = m.previewer(o.is)
		}
		if err != nil {
			return errors.Join(err, o.is.Close())
		}
		o.is.SetName(m.Name, m.Hash)
		return nil
	})
	if err != nil {
		return opened{}, nil, fmt.Errorf("model %s: %w", quote.Text(m.Name), err)
	}
	if d := o.is.Diffusion(); d != nil {
		o.cache = lora.NewCache(d, adapters)
	}
	return o, known, nil
}

// plan plans what the open model generates, with its adapters.
func (m *model) plan(ctx context.Context, r generate.Request) (*generate.Plan, error) {
	if m.cache != nil {
		r.Adapters = m.cache
	}
	return m.is.Plan(ctx, r)
}

// close frees an open model; the caller has claimed it.
func (m *model) close() error {
	if m.is == nil {
		return nil
	}
	var err error
	if m.cache != nil {
		err = m.cache.Close()
	}
	err = errors.Join(err, m.is.Close())
	m.opened = opened{}
	return err
}
