package recipe

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// CMT is consistency mid-training (Hu et al. 2025): see [training.CMT].
type CMT struct {
	Teacher     string  `option:"teacher"`
	Trains      string  `option:"trains" default:"consistency" choices:"consistency,jumps" help:"a consistency function, to continue with ect, or jumps between any two times, to continue with meanflow, soflow or alphaflow"`
	SolverSteps int     `option:"solver-steps" default:"16" range:"[1,1000]" help:"steps of DPM-Solver++ along a trajectory of the teacher"`
	Points      int     `option:"points" range:"[1,1000]" help:"points of each trajectory that the network is trained on; its batch is batch times points (default: 4, or solver-steps if fewer)"`
	SigmaMin    float64 `option:"sigma-min" default:"0.002" range:"(0,80)" help:"noise level that sets the spacing of a trajectory's levels: the last one, which is 0, would be there; with a larger one, such as 0.2, fewer points are at low noise levels"`
	Distance    string  `option:"distance"`
	LPIPS       string  `option:"lpips"`
	LPIPSResize string  `option:"lpips-resize"`
}

// jumps is the value of the option trains for average velocities.
const jumps = "jumps"

// Spec implements [Method].
func (m *CMT) Spec() Spec {
	s := Spec{
		Name: "cmt", About: "consistency mid-training (Hu et al. 2025): a stage between a denoiser and ect or meanflow",
		Formulas: `x_0 = x + 80·z, x_1, …, x_M: DPM-Solver++(2M) along the teacher's trajectory at levels t_i, ln t evenly spaced from 80 to sigma-min, but the last 0
L = d(f_θ(x_i, t_i), x_M) at points of each trajectory
with jumps L = ‖u_θ(y_i, τ_j, τ_i) - (y_i - y_j)/(τ_i - τ_j)‖²/D, j > i, y = x/(1+t), τ = t/(1+t)
Published: 16 steps, all of their points, LPIPS, a solver of third order (CIFAR-10, then ECT: FID 2.74 in one step, 1.97 in two).`,
		Forms: every, Function: consistency(models.AtZero), Distils: true,
	}
	if m.Trains == jumps {
		s.Forms, s.Teachers, s.Function = []checkpoint.FormType{checkpoint.Flow}, every, averageVelocity("cmt")
		s.Until, s.Guidable = true, true
	}
	return s
}

// Fill implements [Filler].
func (m *CMT) Fill(int) error {
	if m.Points == 0 {
		m.Points = min(4, m.SolverSteps)
	}
	if m.Points > m.SolverSteps {
		return usage("points", "%s: a trajectory of %d steps has %d points to train on, got %d", name("points"), m.SolverSteps, m.SolverSteps, m.Points)
	}
	if d, _ := declared("distance"); m.Trains == jumps && m.Distance != d.Default {
		return usage("distance", "%s: the loss of jumps is the squared error: leave the option out", name("distance"))
	}
	return nil
}

// Table implements [Tabler]. It shows the levels of a trajectory.
func (m *CMT) Table(int) (table, note string, err error) {
	var b strings.Builder
	b.WriteString("| point | level |\n|---|---|\n")
	levels := (&training.CMT{Steps: m.SolverSteps, SigmaMin: m.SigmaMin}).Levels()
	for i, t := range levels[:len(levels)-1] {
		fmt.Fprintf(&b, "| %d | %.3g |\n", i, t)
	}
	return b.String(), fmt.Sprintf("The network is trained at these levels, at %d of them for each trajectory.", m.Points), nil
}

// Objective implements [Method].
func (m *CMT) Objective(p *Parts, f any) (training.Objective, error) {
	o := &training.CMT{Teacher: p.Teacher, Steps: m.SolverSteps, Points: m.Points, SigmaMin: m.SigmaMin}
	if m.Trains == jumps {
		o.Jumps = f.(*models.MeanFlow)
		return o, nil
	}
	d, err := p.distance(m.Distance, m.LPIPS, m.LPIPSResize)
	o.Model, o.Distance = f.(*models.Consistency), d
	return o, err
}
