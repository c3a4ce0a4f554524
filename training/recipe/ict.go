package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/training"
)

// ICT is improved consistency training (Song & Dhariwal 2023): see [training.CT].
type ICT struct {
	Distance    string `option:"distance"`
	LPIPS       string `option:"lpips"`
	LPIPSResize string `option:"lpips-resize"`
	S0          int    `option:"s0"`
	S1          int    `option:"s1"`
	Schedule    string `option:"schedule" default:"doubling" choices:"doubling,linear" help:"the number of noise levels doubles in stages, or the gap between them falls linearly"`
}

// Spec implements [Method].
func (m *ICT) Spec() Spec {
	return Spec{
		Name: "ict", About: "improved consistency training (Song & Dhariwal 2023)",
		Formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = λ·d(f_θ(x + t'·z, t'), f_θ(x + t·z, t) without gradients), λ = 1/(t' - t)
t and t' adjacent levels of N(k), with probability ∝ erf((ln t' + 1.1)/(√2·2)) - erf((ln t + 1.1)/(√2·2))
N(k) = min(s0·2^⌊k/K'⌋, s1) + 1, K' = ⌊K/(log2⌊s1/s0⌋ + 1)⌋; or with the schedule linear: 1/(N(k)-1) falls linearly from 1/s0 to 1/s1`,
		Forms: every, Function: consistency(models.AtSigmaMin),
	}
}

// Fill implements [Filler].
func (m *ICT) Fill(steps int) error {
	return growing(&m.S0, &m.S1, 10, max(20, min(1280, steps/125)))
}

// Table implements [Tabler].
func (m *ICT) Table(steps int) (table, note string, err error) {
	return levelsTable(m.schedule(steps), steps, solver.Euler{}, true)
}

func (m *ICT) schedule(steps int) training.Schedule {
	if m.Schedule == "linear" {
		return training.Linear{S0: m.S0, S1: m.S1, Steps: steps}
	}
	return training.Doubling{S0: m.S0, S1: m.S1, Steps: steps}
}

// Objective implements [Method].
func (m *ICT) Objective(p *Parts, f any) (training.Objective, error) {
	d, err := p.distance(m.Distance, m.LPIPS, m.LPIPSResize)
	return &training.CT{Model: f.(*models.Consistency), Distance: d, Index: training.LogNormal{}, Weight: training.InverseGap, Schedule: m.schedule(p.Steps)}, err
}
