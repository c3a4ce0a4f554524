package generate

import (
	"context"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// diffusion is a Stable Diffusion model.
type diffusion struct{ model *sd.Model }

func (m diffusion) samplers() []string { return scheduler.Names() }

func (m diffusion) plan(ctx context.Context, r Request) (_ *Plan, err error) {
	if err := m.takes(r); err != nil {
		return nil, err
	}
	p := &Plan{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	t := texttoimage.Pipeline{
		Model: m.model, Steps: r.Steps, Timesteps: r.Timesteps, Guidance: r.Guidance, Negative: r.Negative, Width: r.Width, Height: r.Height,
		Seed: r.Seed, Seeds: r.Seeds, N: r.N, Batch: r.Batch,
	}
	if r.Sampler != "" {
		if t.Method, err = scheduler.Named(r.Sampler); err != nil {
			return nil, refuse("Sampler", "%v", err)
		}
	}
	find := func(tags []prompt.LoRA) (sd.Adaptation, error) {
		all, release, err := r.Adapters.Tagged(ctx, tags)
		if err == nil && release != nil {
			p.release = append(p.release, release)
		}
		return all, err
	}
	if r.Adapters != nil {
		t.Tagged = find
	}
	if r.LoRAs != nil {
		if r.Adapters == nil {
			return nil, refuse("LoRAs", "the adapter %s: set Adapters, which loads it", quote.Quoted(r.LoRAs[0].Name))
		}
		all, err := find(r.LoRAs)
		if err != nil {
			return nil, err
		}
		t.Adapters, t.Inversions, t.Grids, t.Runs = all.Adapters, all.Inversions, all.Grids, all.Runs
	}
	if r.More != nil {
		r.More(&t)
	}
	if p.Diffusion, err = t.Plan(r.Prompts...); err != nil {
		return nil, err
	}
	d := p.Diffusion
	p.Sampler, p.Steps, p.Timesteps, p.Evaluations, p.Guidance = d.Method, d.Steps, d.Timesteps, d.Evaluations, d.Guidance
	p.Width, p.Height, p.Notices = d.Width, d.Height, d.Notices
	p.run = func(ctx context.Context, yield func(Progress) bool) error {
		for at, err := range d.Run(ctx) {
			if err != nil {
				return err
			}
			st := Progress{First: at.First, N: len(at.Seeds), I: at.I, Steps: at.Steps, preview: at.Preview}
			for i, img := range at.Images {
				st.Images = append(st.Images, Image{Image: img, Seed: at.Seeds[i], Prompt: at.Prompts[i], Label: -1, Texts: at.Texts(i, r.LoRAs...)})
			}
			if !yield(st) {
				return nil
			}
		}
		return nil
	}
	return p, nil
}

// takes returns an error for fields that are not for Stable Diffusion.
func (m diffusion) takes(r Request) error {
	for _, given := range []struct {
		field string
		is    bool
	}{{"Times", r.Times != nil}, {"Gamma", r.Gamma != 0}, {"Labels", r.Labels != nil}, {"Edit", r.Edit != nil}, {"Precision", r.Precision != 0}} {
		if given.is {
			return refuse(given.field, "only pixel-space models use it, and %s is Stable Diffusion", quote.Quoted(m.model.Name()))
		}
	}
	if len(r.Prompts) == 0 {
		return refuse("Prompts", "want at least one prompt for %s, got none", quote.Quoted(m.model.Name()))
	}
	return nil
}
