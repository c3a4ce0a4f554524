package job

import (
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/sampling/scheduler"
)

// samplerNames are what A1111 calls the methods.
var samplerNames = map[string]string{
	"lcm": "LCM", "tcd": "TCD", "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun", "dpmpp_2m": "DPM++ 2M", "unipc": "UniPC",
	"pndm": "PLMS", "lms": "LMS", "dpm2": "DPM2", "dpm2_a": "DPM2 a", "dpmpp_2s_a": "DPM++ 2S a", "dpmpp_sde": "DPM++ SDE",
	"dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_3m_sde": "DPM++ 3M SDE", "deis": "DEIS", "ddpm": "DDPM",
	"dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun", "unipc_bh1": "UniPC", "dpmpp_3m": "DPM++ 3M",
}

// uniVariant is A1111's "UniPC variant" of a method, "" for bh1, its default, and for other samplers.
func uniVariant(method string) string {
	if method == "unipc" || strings.HasPrefix(method, "unipc_") && !strings.HasPrefix(method, "unipc_bh1") {
		return "bh2"
	}
	return ""
}

// withVariant is a sampler's name with A1111's "UniPC variant", which other samplers' texts may have, too.
func withVariant(name, variant string) string {
	if variant == "" {
		return name
	}
	return strings.Replace(name, "UniPC", "UniPC "+variant, 1)
}

// samplerText is what A1111's parameters say of a method: the sampler with its spacing, or a schedule type beside it.
func samplerText(method string) (sampler, schedule string) {
	for _, spacing := range scheduler.Spacings() {
		front, ok := strings.CutSuffix(method, "_"+spacing)
		name := samplerNames[front]
		if !ok || name == "" {
			continue
		}
		switch spacing {
		case "karras":
			return name + " Karras", ""
		case "exponential":
			return name + " Exponential", ""
		case "beta":
			return name, "Beta"
		case "trailing":
			return name, "SGM Uniform"
		}
		return method, "" // A1111 has no name for it
	}
	if name := samplerNames[method]; name != "" {
		return name, ""
	}
	return method, ""
}

// method returns the sampler that is asked for, with its options; nil is the model's own, whose spacing may be another, too.
func (o Generate) method() (scheduler.Method, error) {
	if o.Sampler == "" {
		if o.Eta != nil {
			return nil, usage("--eta: goes with --sampler tcd or ddim")
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
		return nil, usage("--eta: goes with --sampler tcd or ddim; the sampler %s has none", quote.Text(o.Sampler))
	}
	if isSpaced {
		spaced.Method = m
		return spaced, nil
	}
	return m, nil
}
