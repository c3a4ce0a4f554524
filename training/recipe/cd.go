package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/training"
)

// CD is consistency distillation (Song et al. 2023): see [training.CD].
type CD struct {
	Teacher     string    `option:"teacher" value:"FILE|DIR" help:"denoiser to distil: a file, a run directory, or empirical, the exact denoiser of the data"`
	Guidance    []float64 `option:"guidance" range:"[0,1000]" value:"X,X" help:"guidance scale of the teacher, or MIN,MAX for a network with a guidance embedding"`
	Solver      string    `option:"solver" default:"heun" choices:"euler,heun,dpmpp_2s" help:"ODE solver along the teacher's trajectory"`
	Levels      int       `option:"levels" default:"18" range:"[2,1048576]" help:"noise levels"`
	Mu          *float64  `option:"mu" default:"0.95" range:"[0,1)" help:"decay of the target network"`
	Distance    string    `option:"distance"`
	LPIPS       string    `option:"lpips"`
	LPIPSResize string    `option:"lpips-resize"`
}

// Spec implements [Method].
func (m *CD) Spec() Spec {
	return Spec{
		Name: "cd", About: "consistency distillation (Song et al. 2023) of a denoiser",
		Formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = λ·d(f_θ(x + t'·z, t'), f_θ⁻(x̂, t)), t and t' adjacent levels of N, uniformly drawn
λ = 1/(t' - t); the paper has 1, with which the student stays much farther from the solver
x̂ = one step of the solver along the teacher's trajectory, from x + t'·z at t' to t
θ⁻ ← μ·θ⁻ + (1-μ)·θ`,
		Forms: every, Function: consistency(models.AtSigmaMin), Distils: true, Copies: 1,
	}
}

// Fill implements [Filler]. It checks the guidance scales.
func (m *CD) Fill(int) error {
	for i, w := range m.Guidance {
		if i > 1 || i == 1 && !(w > m.Guidance[0]) || len(m.Guidance) == 1 && w == 0 {
			return usage("guidance", "%s: want one scale above 0, or the two ends MIN,MAX of a range, up to 1000, got %v", name("guidance"), m.Guidance)
		}
	}
	return nil
}

// Table implements [Tabler].
func (m *CD) Table(steps int) (table, note string, err error) {
	return levelsTable(training.Fixed{Levels: m.Levels, Decay: *m.Mu}, steps, solvers[m.Solver], true)
}

// Objective implements [Method].
func (m *CD) Objective(p *Parts, f any) (training.Objective, error) {
	d, err := p.distance(m.Distance, m.LPIPS, m.LPIPSResize)
	if err != nil {
		return nil, err
	}
	target, err := p.Copy()
	if err != nil {
		return nil, err
	}
	return &training.CD{CT: training.CT{Model: f.(*models.Consistency), Target: target.(*models.Consistency), Distance: d,
		Schedule: training.Fixed{Levels: m.Levels, Decay: *m.Mu}, Weight: training.InverseGap}, Teacher: p.Teacher, Solver: solvers[m.Solver]}, nil
}
