package infotext

import (
	"slices"
	"strings"

	"github.com/onestep-go/onestep/sampling/scheduler"
)

// names are A1111's names of the samplers.
var names = map[string]string{
	"lcm": "LCM", "tcd": "TCD", "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun", "dpmpp_2m": "DPM++ 2M", "unipc": "UniPC",
	"pndm": "PLMS", "lms": "LMS", "dpm2": "DPM2", "dpm2_a": "DPM2 a", "dpmpp_2s_a": "DPM++ 2S a", "dpmpp_sde": "DPM++ SDE",
	"dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_3m_sde": "DPM++ 3M SDE", "deis": "DEIS", "ddpm": "DDPM",
	"dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun", "unipc_bh1": "UniPC", "dpmpp_3m": "DPM++ 3M",
}

// AddSampler appends A1111's fields for a sampler of package scheduler: "Sampler", with the spacing in its name or in "Schedule type", and
// "UniPC variant". A sampler that A1111 does not have keeps its own name.
func (t *Text) AddSampler(method string) {
	sampler, schedule := a1111(method)
	t.Add("Sampler", sampler)
	t.Add("Schedule type", schedule)
	if method == "unipc" || strings.HasPrefix(method, "unipc_") && !strings.HasPrefix(method, "unipc_bh1") {
		t.Add("UniPC variant", "bh2") // the default is bh1
	}
}

// a1111 returns the sampler, with the spacing in its name or as schedule type.
func a1111(method string) (sampler, schedule string) {
	for _, spacing := range scheduler.Spacings() {
		front, ok := strings.CutSuffix(method, "_"+spacing)
		name := names[front]
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
	if name := names[method]; name != "" {
		return name, ""
	}
	return method, ""
}

// AddAfter puts settings after the one called name, or at the end if there is none.
func (t *Text) AddAfter(name string, fields ...Field) { t.insert(t.index(name)+1, fields) }

// AddBefore puts settings before the one called name, or at the end if there is none.
func (t *Text) AddBefore(name string, fields ...Field) { t.insert(t.index(name), fields) }

// index returns where a setting is; past the end if there is none.
func (t *Text) index(name string) int {
	if i := slices.IndexFunc(t.Fields, func(f Field) bool { return f.Name == name }); i >= 0 {
		return i
	}
	return len(t.Fields)
}

func (t *Text) insert(at int, fields []Field) {
	t.Fields = slices.Insert(slices.Clone(t.Fields), min(at, len(t.Fields)), fields...)
}
