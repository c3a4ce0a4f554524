package engine

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

func refuse(field, format string, args ...any) error {
	return &RequestError{field, fmt.Sprintf(format, args...)}
}

// unknown is the error of a model's name.
func (e *Engine) unknown(name string) error {
	var names []string
	for _, m := range e.models {
		names = append(names, m.Name)
	}
	return refuse("Model", "%s", suggest.OneOf(name, names))
}

// maxSide is the largest width and height that may be asked for.
const maxSide = 1 << 14

// validate reports values that are invalid for every model.
func (r Request) validate(o Options) error {
	switch {
	case r.N < 0 || r.N > o.MaxImages:
		return refuse("N", "want 1 to %d images, got %d", o.MaxImages, r.N)
	case r.Steps < 0 || r.Steps > o.MaxSteps:
		return refuse("Steps", "want 1 to %d, got %d", o.MaxSteps, r.Steps)
	case r.Width < 0 || r.Width > maxSide || r.Height < 0 || r.Height > maxSide || r.Width*r.Height > o.MaxPixels:
		return refuse("Width", "want at most %d pixels, got %d×%d", o.MaxPixels, r.Width, r.Height)
	case !(r.Guidance >= 0 && r.Guidance <= 1000):
		return refuse("Guidance", "want a scale from 0 to 1000, got %g", r.Guidance)
	case !(r.Strength >= 0 && r.Strength <= 1):
		return refuse("Strength", "want above 0 to 1, got %g", r.Strength)
	case r.Mask != nil && r.Init == nil:
		return refuse("Mask", "a mask needs an input image")
	case r.Deadline < 0:
		return refuse("Deadline", "want more than 0, got %s", r.Deadline)
	}
	return nil
}

// resolve returns what the model generates for a request, with the size and the notices of the result.
func (p profile) resolve(r Request) (is generate.Request, as Resolved, err error) {
	is = generate.Request{N: r.N, Seed: *r.Seed, Steps: r.Steps, Guidance: r.Guidance, Sampler: r.Sampler}
	as.Width, as.Height = r.Width, r.Height
	if as.Width == 0 {
		as.Width = p.Width
	}
	if as.Height == 0 {
		as.Height = p.Height
	}
	note := func(format string, args ...any) { as.Notices = append(as.Notices, fmt.Sprintf(format, args...)) }
	if p.pixels == nil {
		is.Prompts, is.Negative, is.LoRAs = []string{r.Prompt}, r.Negative, r.LoRAs
		is.Width, is.Height = max(as.Width/p.factor, 1)*p.factor, max(as.Height/p.factor, 1)*p.factor
		is.More = func(t *texttoimage.Pipeline) { t.Init, t.Mask, t.Strength = r.Init, r.Mask, r.Strength }
		return is, as, nil
	}
	if is.Labels = r.Labels; is.Labels == nil && r.Prompt != "" {
		if p.pixels.Network.Classes() == 0 {
			note("the prompt %s has no effect: the model is unconditional", quote.Quoted(r.Prompt))
		} else {
			label, notice, err := classOf(*p.pixels, r.Prompt)
			if err != nil {
				return is, as, err
			}
			if notice != "" {
				note("%s", notice)
			}
			is.Labels = []int{label}
		}
	}
	if r.Negative != "" {
		note("the negative prompt has no effect: the model takes classes, not prompts")
	}
	if len(r.LoRAs) > 0 {
		note("adapters have no effect: the model is a pixel-space model")
	}
	if is.Guidance != 0 && !p.guided {
		note("the guidance scale %g has no effect: the model does not use it", is.Guidance)
		is.Guidance = 0
	}
	switch {
	case r.Mask != nil:
		is.Edit = &generate.Edit{Task: generate.Inpaint, Image: r.Init, Mask: r.Mask}
	case r.Init != nil:
		is.Edit = &generate.Edit{Task: generate.Stroke, Image: r.Init}
	}
	return is, as, nil
}

// requestError returns an error of a plan as one of a request's.
func requestError(err error) error {
	var bad *generate.RequestError
	if errors.As(err, &bad) {
		return &RequestError{bad.Field, bad.Msg}
	}
	var option *texttoimage.OptionError
	if errors.As(err, &option) {
		return &RequestError{option.Option, option.Err.Error()}
	}
	return err
}
