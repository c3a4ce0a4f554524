package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/training"
)

// CT is consistency training (Song et al. 2023): see [training.CT].
type CT struct {
	Distance    string  `option:"distance" default:"huber" choices:"l1,l2,norm,huber,lpips" help:"distance between the function's two outputs; norm is the Euclidean, huber the pseudo-Huber distance"`
	LPIPS       string  `option:"lpips" value:"FILE" help:"weights of the distance lpips, as scripts/lpips_weights.py writes them"`
	LPIPSResize string  `option:"lpips-resize" choices:"small,all" value:"small|all" help:"images that lpips resizes to 224 pixels: small, those below 256, or all (default: none)"`
	S0          int     `option:"s0" range:"[2,1048576]" help:"noise levels at the start (default: ct 2, ict 10)"`
	S1          int     `option:"s1" range:"[2,1048576]" help:"noise levels at the end, minus one (default: ct steps/100, 10 to 150; ict steps/125, 20 to 1280)"`
	Mu0         float64 `option:"mu0" default:"0.9" range:"(0,1)" help:"decay of the target network at the start"`
}

// Spec implements [Method].
func (m *CT) Spec() Spec {
	return Spec{
		Name: "ct", About: "consistency training (Song et al. 2023)",
		Formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = d(f_θ(x + t'·z, t'), f_θ⁻(x + t·z, t)), t and t' adjacent levels of N(k), uniformly drawn
N(k) = ⌈√(k/K·((s1+1)² - s0²) + s0²) - 1⌉ + 1
θ⁻ ← μ(k)·θ⁻ + (1-μ(k))·θ, μ(k) = exp(s0·ln μ0/N(k))`,
		Forms: every, Function: consistency(models.AtSigmaMin), Copies: 1,
	}
}

// Fill implements [Filler].
func (m *CT) Fill(steps int) error { return growing(&m.S0, &m.S1, 2, training.FitLevels(steps)) }

// Table implements [Tabler].
func (m *CT) Table(steps int) (table, note string, err error) {
	return levelsTable(m.schedule(steps), steps, solver.Euler{}, false)
}

func (m *CT) schedule(steps int) training.Schedule {
	return training.Progressive{S0: m.S0, S1: m.S1, Mu0: m.Mu0, Steps: steps}
}

// Objective implements [Method].
func (m *CT) Objective(p *Parts, f any) (training.Objective, error) {
	target, err := p.Copy()
	if err != nil {
		return nil, err
	}
	d, err := p.distance(m.Distance, m.LPIPS, m.LPIPSResize)
	return &training.CT{Model: f.(*models.Consistency), Target: target.(*models.Consistency), Distance: d, Schedule: m.schedule(p.Steps)}, err
}
