package recipe

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/training"
)

// MSCT is multistep consistency training (Heek, Hoogeboom & Salimans 2024): see [training.MultistepCM].
type MSCT struct {
	Segments    int `option:"segments" default:"4" range:"[1,1024]" help:"segments of the noise levels, each of which the model crosses in one sampling step"`
	FirstLevels int `option:"first-levels" range:"[1,1048576]" help:"noise levels at the start, over all segments (default: 64, or the last ones if fewer)"`
	LastLevels  int `option:"last-levels" range:"[1,1048576]" help:"noise levels at the end (default: steps/25, 64 to 1280)"`
}

// MSCD is multistep consistency distillation of a denoiser (Heek, Hoogeboom & Salimans 2024): see [training.MultistepCM].
type MSCD struct {
	Teacher     string `option:"teacher"`
	Segments    int    `option:"segments"`
	FirstLevels int    `option:"first-levels"`
	LastLevels  int    `option:"last-levels"`
	DDIM        bool   `option:"ddim" help:"steps of the teacher by DDIM, which suits one or two segments, in place of adjusted DDIM"`
}

// Spec implements [Method].
func (m *MSCT) Spec() Spec {
	return multistep(Spec{Name: "msct", About: "multistep consistency training (Heek et al. 2024), best started from a denoiser (init)"}, "D = x")
}

// Spec implements [Method].
func (m *MSCD) Spec() Spec {
	return multistep(Spec{Name: "mscd", About: "multistep consistency distillation (Heek et al. 2024) of a denoiser", Distils: true},
		"D the teacher's prediction; q² = u² + (1 - u/t)²·‖D - x‖²/‖(x_t - D)/t‖² (aDDIM)")
}

// multistep completes a specification. with says what the teacher's step is made of.
func multistep(s Spec, with string) Spec {
	s.Formulas = fmt.Sprintf(`t > u adjacent levels of N(k), e the end of their segment, x_t = x + t·z
x_u = D + q·(x_t - D)/t, q = u, %s
x_e = f⁻ + e/u·(x_u - f⁻), f⁻ = f_θ(x_u, u) without gradients
L = √(1/t² + 1)·‖f_θ(x_t, t) - f*‖, f* the prediction whose DDIM step from x_t ends at x_e
N(k) from first-levels to last-levels exponentially over half of the run; sampled by one DDIM step per segment
Published: loss, N(k) to 1280 and aDDIM (ImageNet 64, FID 1.9, 1.6 and 1.4 in two, four and eight steps). The levels are Karras's here, a cosine schedule's there.`, with)
	s.Forms, s.Function, s.Guidable, s.Leveled = every, denoiser, true, true
	return s
}

// Fill implements [Filler].
func (m *MSCT) Fill(steps int) error {
	return fillLevels(steps, m.Segments, &m.FirstLevels, &m.LastLevels)
}

// Fill implements [Filler].
func (m *MSCD) Fill(steps int) error {
	return fillLevels(steps, m.Segments, &m.FirstLevels, &m.LastLevels)
}

// fillLevels fills in the numbers of noise levels at the start and the end of a run.
func fillLevels(steps, segments int, first, last *int) error {
	if *last == 0 {
		*last = max(64, segments, *first, min(1280, steps/25))
	}
	if *first == 0 {
		*first = max(segments, min(64, *last))
	}
	if *first < segments || *last < *first {
		return usage("last-levels", "%s, %s: want at least one noise level for each of %d segments at the start, and no fewer at the end, got %d and %d",
			name("first-levels"), name("last-levels"), segments, *first, *last)
	}
	return nil
}

func (m *MSCT) objective(steps int) *training.MultistepCM {
	return &training.MultistepCM{Segments: m.Segments, First: m.FirstLevels, Last: m.LastLevels, Steps: steps}
}

func (m *MSCD) objective(steps int) *training.MultistepCM {
	return &training.MultistepCM{Segments: m.Segments, First: m.FirstLevels, Last: m.LastLevels, Steps: steps, DDIM: m.DDIM}
}

// Table implements [Tabler].
func (m *MSCT) Table(steps int) (table, note string, err error) {
	return segmentsTable(m.objective(steps), steps)
}

// Table implements [Tabler].
func (m *MSCD) Table(steps int) (table, note string, err error) {
	return segmentsTable(m.objective(steps), steps)
}

// segmentsTable shows the number of levels over the run, and the segments' ends.
func segmentsTable(o *training.MultistepCM, steps int) (table, note string, err error) {
	var b strings.Builder
	b.WriteString("| step | N |\n|---|---|\n")
	for _, k := range moments(steps) {
		fmt.Fprintf(&b, "| %d | %.0f |\n", k, o.Stats(k)["levels"])
	}
	ends := o.Levels(0)
	if len(ends) > 9 {
		return b.String(), fmt.Sprintf("%d segments.", len(ends)-1), nil
	}
	var words []string
	for _, e := range ends {
		words = append(words, fmt.Sprintf("%.4g", e))
	}
	return b.String(), "The segments' ends are the levels " + strings.Join(words, ", ") + ".", nil
}

// Objective implements [Method].
func (m *MSCT) Objective(p *Parts, f any) (training.Objective, error) {
	o := m.objective(p.Steps)
	o.Model = f.(training.DenoiserModel)
	return o, nil
}

// Objective implements [Method].
func (m *MSCD) Objective(p *Parts, f any) (training.Objective, error) {
	o := m.objective(p.Steps)
	o.Model, o.Teacher = f.(training.DenoiserModel), p.Teacher
	return o, nil
}
