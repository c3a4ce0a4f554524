package engine

import (
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/scheduler"
)

const (
	fewSteps  = 8  // more bring nothing with a few-step model
	lcmScale  = 2  // the largest guidance scale of the samplers for few steps, on models without a guidance embedding
	topScale  = 14 // the largest guidance scale that models with a guidance embedding are usually distilled with
	someSteps = 50 // of the samplers ddpm and ddim over timesteps, whose own default is up to a thousand
)

// sampler returns the name of the sampler for a request; "": the model's. A known one that is not for the model is a notice.
func (p *profile) sampler(name string, note notes) (string, error) {
	if name == "" {
		return "", nil
	}
	method, err := scheduler.Named(name)
	switch {
	case p.pixels == nil && err == nil:
		return scheduler.NameOf(method), nil
	case slices.Contains(p.Samplers, name):
		return name, nil
	case err == nil && slices.Contains(p.Samplers, scheduler.NameOf(method)): // as other programs write it
		return scheduler.NameOf(method), nil
	case err == nil, slices.Contains(generate.PixelSamplers(), name):
		note.add("the sampler %s is not for this model, which uses its own", quote.Text(name))
		return "", nil
	case p.pixels == nil:
		return "", refuse("Sampler", "%v", err)
	}
	return "", refuse("Sampler", "%s", suggest.OneOf(name, p.Samplers))
}

// steps returns the number of steps for a request; 0: the model's default.
func (p *profile) steps(asked int, sampler string, inpaints bool, most int, note notes) int {
	over := p.pixels != nil && (strings.HasPrefix(sampler, "ddpm_") || strings.HasPrefix(sampler, "ddim_"))
	switch few := p.few || p.pixels == nil && isFew(sampler); {
	case few && asked > min(fewSteps, most) && !inpaints:
		note.add("%d steps are too many for a few-step model: %d are used", asked, min(fewSteps, most))
		return min(fewSteps, most)
	case asked > most:
		note.add("%d steps exceed the limit: %d are used", asked, most)
		return most
	case asked == 0 && over:
		return min(someSteps, most)
	case asked == 0 && inpaints && p.pixels != nil && p.few:
		return min(generate.EditSteps, most)
	case asked == 0 && p.Steps > most:
		return most
	}
	return asked
}

// guidance returns the guidance scale for a request; 0: the model's default.
func (p *profile) guidance(asked float64, sampler string, note notes) float64 {
	if asked == 0 || asked == 1 {
		return asked
	}
	if !p.Guided {
		note.add("the guidance scale %.4g has no effect: the model does not use it", asked)
		return 0
	}
	if most := p.largestScale(sampler); asked > most {
		note.add("the guidance scale %.4g is above %.4g, the largest that suits the model and the sampler: the default is used", asked, most)
		return 0
	}
	return asked
}

// largestScale is the largest guidance scale that suits a few-step model.
func (p *profile) largestScale(sampler string) float64 {
	switch {
	case p.pixels != nil && p.pixels.Network.Guidance() && len(p.pixels.Guidance) == 2:
		return p.pixels.Guidance[1]
	case p.pixels != nil && p.pixels.Network.Guidance(), p.distilled && !p.scales.Known():
		return topScale
	case p.distilled:
		return p.scales.Max
	case p.pixels == nil && (isFew(sampler) || sampler == "" && p.few):
		return lcmScale
	}
	return math.Inf(1)
}
