package scheduler

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
)

// aliases are the names of methods in A1111, ComfyUI and k-diffusion, normalized by plainName.
var aliases = map[string]string{
	"euler_ancestral":    "euler_a",
	"plms":               "pndm",
	"uni_pc":             "unipc_bh1",
	"uni_pc_bh1":         "unipc_bh1",
	"uni_pc_bh2":         "unipc",
	"unipc_bh2":          "unipc",
	"dpm_2":              "dpm2",
	"dpm_2_a":            "dpm2_a",
	"dpm_2_ancestral":    "dpm2_a",
	"dpm2_ancestral":     "dpm2_a",
	"dpmpp_2s_ancestral": "dpmpp_2s_a",
	"dpmpp_2m_sde_gpu":   "dpmpp_2m_sde",

	"dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun",

	"dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
	"dpmpp_sde_gpu":    "dpmpp_sde",
	"lms_discrete":     "lms",
	"kdpm2":            "dpm2",
	"kdpm2_ancestral":  "dpm2_a",
}

// plainName normalizes a name to lower case with underscores: DPM++ 2M Karras is dpmpp_2m_karras, dpmpp2m is dpmpp_2m.
func plainName(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	name = strings.NewReplacer("dpm++", "dpmpp", " ", "_", "-", "_").Replace(name)
	name = strings.TrimPrefix(strings.TrimPrefix(name, "sample_"), "k_")
	for _, joined := range []string{"2m", "2s", "3m", "sde"} {
		name = strings.Replace(name, "dpmpp"+joined, "dpmpp_"+joined, 1)
	}
	return name
}

// Named returns a method by one of [Names] or a name from A1111 or ComfyUI (Euler a, dpm++2m, dpmpp_2s_ancestral), optionally followed by a
// spacing: dpmpp_2m_karras, DPM++ SDE Karras, lms_exponential, euler_sgm_uniform.
func Named(name string) (Method, error) {
	plain, spacing := plainName(name), ""
	method := func(plain string) (Method, bool) {
		if a, ok := aliases[plain]; ok {
			plain = a
		}
		m, ok := methods[plain]
		return m, ok
	}
	if m, ok := method(plain); ok {
		return m, nil
	}
	front := plain
	for _, end := range append(Spacings(), "sgm_uniform") {
		if before, ok := strings.CutSuffix(plain, "_"+end); ok {
			front, spacing = before, end
		}
	}
	if m, ok := method(front); ok && spacing != "" {
		if already := ownSpacing(NameOf(m)); already != "" { // WithSpacing would accept the same one
			return nil, fmt.Errorf("the sampler %s has two spacings, %s and %s: want one", quote.Quoted(name), already, spacing)
		}
		return WithSpacing(m, spacing)
	}
	return nil, fmt.Errorf("there is no sampler %s%s", quote.Quoted(name), cmp.Or(suggest.Hint(plain, spaced()),
		fmt.Sprintf(": want one of %s, optionally followed by _ and a spacing (%s)", strings.Join(Names(), ", "), strings.Join(Spacings(), ", "))))
}

// spaced lists the names of methods, without and with the spacings that they support.
func spaced() []string {
	all := Names()
	for _, name := range Names() {
		for _, spacing := range Spacings() {
			if ownSpacing(name) == "" && Spaces(methods[name], spacing) == nil {
				all = append(all, name+"_"+spacing)
			}
		}
	}
	return all
}

// ownSpacing returns the spacing at the end of a method's name; "": none.
func ownSpacing(name string) string {
	for _, s := range Spacings() {
		if strings.HasSuffix(name, "_"+s) {
			return s
		}
	}
	return ""
}

// WithSpacing returns the method with that spacing, or an error if the method does not support it.
func WithSpacing(m Method, spacing string) (Method, error) {
	spacing, err := SpacingNamed(spacing)
	if err != nil {
		return nil, err
	}
	if err := Spaces(m, spacing); err != nil {
		return nil, err
	}
	if known, ok := methods[NameOf(m)+"_"+spacing]; ok {
		return known, nil
	}
	if _, same := m.(Spaced); same || strings.HasSuffix(NameOf(m), "_"+spacing) {
		return m, nil
	}
	return Spaced{m, spacing}, nil
}

// FewSteps reports whether a method is for models distilled to few steps: LCM or TCD.
func FewSteps(m Method) bool {
	switch m.(type) {
	case LCM, TCD:
		return true
	}
	return false
}

// NameOf returns a method's name, regardless of its η, or a description if it has no name.
func NameOf(m Method) string {
	switch m := m.(type) {
	case Spaced:
		return NameOf(m.Method) + "_" + m.Spacing
	case DDIM:
		return "ddim"
	case TCD:
		return "tcd"
	}
	for name, known := range methods {
		if known == m {
			return name
		}
	}
	return fmt.Sprintf("%+v", m)
}
