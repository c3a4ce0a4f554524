package recipe

import (
	"fmt"
	"math"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/training"
)

// ECT is easy consistency tuning (Geng et al. 2024): see [training.ECT].
type ECT struct {
	Distance    string  `option:"distance"`
	LPIPS       string  `option:"lpips"`
	LPIPSResize string  `option:"lpips-resize"`
	Stages      int     `option:"stages" range:"[1,64]" help:"stages; in each, the two levels of a pair move closer (default: steps/250, 1 to 8)"`
	Q           float64 `option:"q" range:"(1,1000000]" help:"factor by which the levels of a pair move closer per stage (default: 256 over all stages)"`
}

// Spec implements [Method].
func (m *ECT) Spec() Spec {
	return Spec{
		Name: "ect", About: "easy consistency tuning (Geng et al. 2024), best started from a denoiser (init)",
		Formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4), the denoiser's own coefficients
L = d(f_θ(x + t·z, t), f_θ(x + r·z, r) without gradients)/(t - r), ln t ~ N(-1.1, 2²)
r = max(0, t·(1 - n(t)/q^(a+1))), n(t) = 1 + 8·sigmoid(-t), stage a`,
		Forms: every, Function: consistency(models.AtZero),
	}
}

// Fill implements [Filler].
func (m *ECT) Fill(steps int) error {
	if m.Stages == 0 {
		m.Stages = max(1, min(8, steps/250))
	}
	if m.Q == 0 {
		// Fewer stages end with levels as close to each other as the published 8 with q = 2.
		m.Q = math.Pow(256, 1/float64(m.Stages))
	}
	return nil
}

// Table implements [Tabler]. It shows how close the lower level of a pair comes to the upper one.
func (m *ECT) Table(steps int) (table, note string, err error) {
	e := &training.ECT{Steps: steps, Stages: m.Stages, Q: m.Q}
	var b strings.Builder
	b.WriteString("| step | stage | r/t at 0.1 | 1 | 10 | 80 |\n|---|---|---|---|---|---|\n")
	for stage := range m.Stages {
		k := int(math.Ceil(float64(stage) * float64(steps) / float64(m.Stages)))
		fmt.Fprintf(&b, "| %d | %d", k, stage)
		for _, t := range []float64{0.1, 1, 10, 80} {
			fmt.Fprintf(&b, " | %.3g", e.Lower(t, k)/t)
		}
		b.WriteString(" |\n")
	}
	return b.String(), "Where r is 0, the target is the clean image.", nil
}

// Objective implements [Method].
func (m *ECT) Objective(p *Parts, f any) (training.Objective, error) {
	d, err := p.distance(m.Distance, m.LPIPS, m.LPIPSResize)
	return &training.ECT{Model: f.(*models.Consistency), Distance: d, Steps: p.Steps, Stages: m.Stages, Q: m.Q}, err
}
