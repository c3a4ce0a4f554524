package infotext

import (
	"regexp"
	"strings"
)

// Spacing is a spacing of noise levels, by its suffix in sampler names; "" is that of the model's scheduler.
type Spacing = string

// methods maps the sampler names of A1111, Forge, ComfyUI, Fooocus, SD.Next and stable-diffusion.cpp, in lower case without spaces,
// underscores and hyphens, to those of package scheduler.
var methods = map[string]string{
	"lcm": "lcm", "tcd": "tcd",
	"ddim": "ddim", "ddimtrailing": "ddim", "ddpm": "ddpm", "pndm": "pndm", "plms": "pndm",
	"euler": "euler", "eulera": "euler_a", "eulerancestral": "euler_a", "heun": "heun", "lms": "lms",
	"dpm2": "dpm2", "dpm2a": "dpm2_a", "dpm2ancestral": "dpm2_a",
	"dpm++2sa": "dpmpp_2s_a", "dpmpp2sa": "dpmpp_2s_a", "dpmpp2sancestral": "dpmpp_2s_a",
	"dpm++2m": "dpmpp_2m", "dpmpp2m": "dpmpp_2m", "dpm++sde": "dpmpp_sde", "dpmppsde": "dpmpp_sde",
	"dpm++2msde": "dpmpp_2m_sde", "dpmpp2msde": "dpmpp_2m_sde", "dpm++3msde": "dpmpp_3m_sde", "dpmpp3msde": "dpmpp_3m_sde",
	"dpm++2msdeheun": "dpmpp_2m_sde_heun", "dpmpp2msdeheun": "dpmpp_2m_sde_heun", "dpm++3m": "dpmpp_3m", "dpmpp3m": "dpmpp_3m",
	"deis": "deis", "unipc": "unipc_bh1", "unipcbh1": "unipc_bh1", "unipcbh2": "unipc", // bh1 is the variant in A1111 and ComfyUI
}

// spacings maps their names of schedule types to spacings. Others are the model's own, or not supported.
var spacings = map[string]Spacing{
	"karras": "karras", "exponential": "exponential", "sgmuniform": "sgm_uniform", "beta": "beta",
}

// spaced are the methods for which A1111's "Automatic" is another spacing than the model's (sd_samplers_kdiffusion.py of 1.9).
var spaced = map[string]Spacing{
	"dpmpp_2m": "karras", "dpmpp_sde": "karras", "dpmpp_2s_a": "karras", "dpm2": "karras", "dpm2_a": "karras",
	"dpmpp_2m_sde": "exponential", "dpmpp_2m_sde_heun": "exponential", "dpmpp_3m_sde": "exponential",
}

var blanks = strings.NewReplacer(" ", "", "_", "", "-", "")

// gpu is the suffix of sampler names in ComfyUI and Fooocus for noise drawn on the GPU.
var gpu = regexp.MustCompile(`gpu$`)

// Sampler maps another program's sampler name, such as "DPM++ 2M", "dpmpp_2m" or "DPM++ 2M Karras", and schedule type, which may be empty,
// to a method and spacing. A1111's "UniPC variant" may follow UniPC. method is "" if the name is unknown. exact is false if the schedule
// type is not supported.
func Sampler(name, schedule string) (method string, spacing Spacing, exact bool) {
	key := gpu.ReplaceAllString(blanks.Replace(strings.ToLower(name)), "")
	for suffix, s := range spacings {
		if short, ok := strings.CutSuffix(key, suffix); ok && methods[short] != "" {
			key, spacing = short, s
		}
	}
	if method = methods[key]; method == "" {
		return "", "", false
	}
	switch kind := blanks.Replace(strings.ToLower(schedule)); {
	case kind == "":
		return method, spacing, true
	case kind == "automatic":
		return method, spaced[method], true
	case spacings[kind] != "":
		return method, spacings[kind], true
	case kind == "uniform" || kind == "normal" || kind == "default" || kind == "discrete":
		return method, spacing, true
	}
	return method, spacing, false
}
