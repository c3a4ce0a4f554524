package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch/vision"
)

// model is a model of the engine, open or not.
type model struct {
	Model
	lora lora.CacheOptions

	mu    sync.Mutex
	is    *generate.Model // nil: not open
	cache *lora.Cache     // of a Stable Diffusion model's adapters
	known profile         // since it was first open
}

func (m *model) about() Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := m.known.Info
	info.Name, info.Loaded = m.Name, m.is != nil
	return info
}

func (m *model) open() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is != nil {
		return nil
	}
	is, err := m.Open()
	if err != nil {
		return fmt.Errorf("model %s: %w", quote.Text(m.Name), err)
	}
	if m.known, err = profileOf(is); err != nil {
		return errors.Join(fmt.Errorf("model %s: %w", quote.Text(m.Name), err), is.Close())
	}
	m.is = is
	if d := is.Diffusion(); d != nil {
		m.cache = lora.NewCache(d, m.lora)
	}
	return nil
}

func (m *model) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is == nil {
		return nil
	}
	var err error
	if m.cache != nil {
		err = m.cache.Close()
	}
	err = errors.Join(err, m.is.Close())
	m.is, m.cache = nil, nil
	return err
}

// generate serves a request with the open model.
func (m *model) generate(ctx context.Context, r Request, yield func(Event) bool) error {
	is, as, err := m.known.resolve(r)
	if err != nil {
		return err
	}
	if m.cache != nil {
		is.Adapters = m.cache
	}
	plan, err := m.is.Plan(ctx, is)
	if err != nil {
		return requestError(err)
	}
	defer plan.Close()
	as.Model, as.Sampler, as.Steps, as.Guidance, as.Seed = m.Name, plan.Sampler, plan.Steps, plan.Guidance, is.Seed
	as.Notices = append(as.Notices, plan.Notices...)
	if !yield(Event{Resolved: &as}) {
		return nil
	}
	give := func(img Image) bool {
		if img.Image.Bounds().Dx() != as.Width || img.Image.Bounds().Dy() != as.Height {
			img.Image = vision.Resize(img.Image, as.Width, as.Height, vision.Lanczos)
		}
		return yield(Event{Image: &img})
	}
	if plan.Diffusion == nil {
		for img, err := range plan.Images(ctx) {
			if err != nil {
				return err
			}
			if !give(Image{Image: img.Image, Seed: img.Seed, Label: img.Label, Texts: img.Texts}) {
				return nil
			}
		}
		return nil
	}
	steps := plan.Evaluations * max(r.N, 1)
	step := 0
	for st, err := range plan.Diffusion.Run(ctx) {
		if err != nil {
			return err
		}
		step += len(st.Seeds)
		if !yield(Event{Step: step, Steps: steps}) {
			return nil
		}
		for i, img := range st.Images {
			if !give(Image{Image: img, Seed: st.Seeds[i], Label: -1, Texts: st.Texts(i)}) {
				return nil
			}
		}
	}
	return nil
}
