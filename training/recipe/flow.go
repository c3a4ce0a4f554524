package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// Flow trains a rectified flow (Liu et al. 2022), to use as a teacher. With a teacher, which must be a flow, it trains the teacher's
// reflow: see [training.Flow].
type Flow struct {
	Teacher string `option:"teacher"`
}

// Spec implements [Method].
func (m *Flow) Spec() Spec {
	return Spec{
		Name: "flow", About: "a rectified flow (Liu et al. 2022), to use as a teacher; with a flow as teacher, its reflow",
		Formulas: `L = ‖v_θ((1-τ)·x + τ·z, τ) - (z - x)‖²/D, τ uniform in [0, 1]
reflow: x is the teacher's sample from z, in 50 Euler steps`,
		Forms: []checkpoint.FormType{checkpoint.Flow}, Function: denoiser, Guidable: true,
	}
}

// Objective implements [Method].
func (m *Flow) Objective(p *Parts, f any) (training.Objective, error) {
	flow := &training.Flow{Model: f.(*models.Flow)}
	if p.Teacher != nil {
		straightens, ok := p.Teacher.(*models.Flow)
		if !ok {
			return nil, usage("teacher", "%s: the method flow straightens the trajectories of a flow: want a teacher that was trained with it", name("teacher"))
		}
		flow.Reflow = straightens
	}
	return flow, nil
}
