package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/training"
)

// StableECT is stable consistency tuning (Wang et al. 2024): see [training.StableECT].
type StableECT struct {
	Distance    string  `option:"distance"`
	LPIPS       string  `option:"lpips"`
	LPIPSResize string  `option:"lpips-resize"`
	Stages      int     `option:"stages"`
	Q           float64 `option:"q"`
}

// Spec implements [Method].
func (m *StableECT) Spec() Spec {
	return Spec{
		Name: "stablect", About: "stable consistency tuning: ECT towards the batch's mean (Wang et al. 2024), from a denoiser (init)",
		Formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4), the denoiser's own coefficients
L = d(f_θ(x_t, t), f_θ(x_r, r) without gradients)/(t - r), x_t = x + t·z, ln t ~ N(-1.1, 2²)
x_r = x̂ + r/t·(x_t - x̂), x̂ = Σ_j w_j·x_j over the batch (of the same class), w_j ∝ exp(-‖x_t - x_j‖²/(2·t²))
r = max(0, t·(1 - n(t)/q^(a+1))), n(t) = 1 + 8·sigmoid(-t), stage a
Published: the target (ImageNet 64, FID 2.42 in one step, 1.55 in two). Schedule, weights and levels are ECT's. A larger batch has a better mean.`,
		Forms: every, Function: consistency(models.AtZero),
	}
}

func (m *StableECT) ect() *ECT {
	return &ECT{Distance: m.Distance, LPIPS: m.LPIPS, LPIPSResize: m.LPIPSResize, Stages: m.Stages, Q: m.Q}
}

// Fill implements [Filler].
func (m *StableECT) Fill(steps int) error {
	e := m.ect()
	err := e.Fill(steps)
	m.Stages, m.Q = e.Stages, e.Q
	return err
}

// Table implements [Tabler].
func (m *StableECT) Table(steps int) (table, note string, err error) { return m.ect().Table(steps) }

// Objective implements [Method].
func (m *StableECT) Objective(p *Parts, f any) (training.Objective, error) {
	o, err := m.ect().Objective(p, f)
	if err != nil {
		return nil, err
	}
	return &training.StableECT{ECT: *o.(*training.ECT)}, nil
}
