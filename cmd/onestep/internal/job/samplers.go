package job

import (
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/sampling/scheduler"
)

// withVariant is a sampler's name with A1111's "UniPC variant", which the parameters of other samplers may contain too.
func withVariant(name, variant string) string {
	if variant == "" {
		return name
	}
	return strings.Replace(name, "UniPC", "UniPC "+variant, 1)
}

// method returns the sampler chosen, with its options; nil means the model's own, which takes the spacing option too.
func (o Drawing) method() (scheduler.Method, error) {
	if o.Sampler == "" {
		if o.Eta != nil {
			return nil, usage("--eta: needs --sampler tcd or ddim")
		}
		return nil, nil
	}
	m, err := scheduler.Named(o.Sampler)
	if err != nil {
		return nil, usage("--sampler: %v", err)
	}
	if o.Spacing != "" {
		if m, err = scheduler.WithSpacing(m, o.Spacing); err != nil {
			return nil, usage("--spacing: %v", err)
		}
	}
	if o.Eta == nil {
		return m, nil
	}
	spaced, isSpaced := m.(scheduler.Spaced)
	if isSpaced {
		m = spaced.Method
	}
	switch m.(type) {
	case scheduler.TCD:
		m = scheduler.TCD{Eta: *o.Eta}
	case scheduler.DDIM:
		m = scheduler.DDIM{Eta: *o.Eta}
	default:
		return nil, usage("--eta: needs --sampler tcd or ddim; the sampler %s has no eta", quote.Text(o.Sampler))
	}
	if isSpaced {
		spaced.Method = m
		return spaced, nil
	}
	return m, nil
}
