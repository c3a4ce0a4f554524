package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// CTM is a consistency trajectory model (Kim et al. 2024): see [training.CTM].
type CTM struct {
	Teacher     string   `option:"teacher"`
	Solver      string   `option:"solver"`
	Levels      int      `option:"levels"`
	Mu          *float64 `option:"mu"`
	Distance    string   `option:"distance"`
	LPIPS       string   `option:"lpips"`
	LPIPSResize string   `option:"lpips-resize"`
}

// Spec implements [Method].
func (m *CTM) Spec() Spec {
	return Spec{
		Name: "ctm", About: "a consistency trajectory model (Kim et al. 2024) of a denoiser",
		Formulas: `G(x, t, s) = s/t·x + (1 - s/t)·g(x, t, s), g = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4, ln(s)/4)
x_est = G_θ⁻(G_θ(x_t, t, s), s, ε), x_target = G_θ⁻(G_θ⁻(Solver(x_t; t → u), u, s), s, ε), t > u ≥ s of N levels
L = d(x_est, x_target) + (t'² + σ_d²)/(t'·σ_d)²·‖g_θ(x + t'·z', t', t') - x‖²/D`,
		Forms: []checkpoint.FormType{checkpoint.EDM}, Teachers: every, Distils: true, Until: true, Guidable: true, Copies: 1,
		Function: func(m Model) (any, error) {
			return &models.Trajectory{Net: m.Net, Noise: m.Start.Form.Noise, SigmaData: m.Start.SigmaData, SigmaMin: m.Start.SigmaMin}, nil
		},
	}
}

// Table implements [Tabler].
func (m *CTM) Table(steps int) (table, note string, err error) {
	return levelsTable(training.Fixed{Levels: m.Levels, Decay: *m.Mu}, steps, solvers[m.Solver], false)
}

// Objective implements [Method].
func (m *CTM) Objective(p *Parts, f any) (training.Objective, error) {
	d, err := p.distance(m.Distance, m.LPIPS, m.LPIPSResize)
	if err != nil {
		return nil, err
	}
	target, err := p.Copy()
	if err != nil {
		return nil, err
	}
	return &training.CTM{Model: f.(*models.Trajectory), Target: target.(*models.Trajectory), Teacher: p.Teacher, Solver: solvers[m.Solver],
		Distance: d, Schedule: training.Fixed{Levels: m.Levels, Decay: *m.Mu}}, nil
}
