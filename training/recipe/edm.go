package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// EDM trains a denoiser (Karras et al. 2022), to use as a teacher: see [training.EDM].
type EDM struct {
	High *float64 `option:"high" default:"0.1" range:"[0,1]" help:"fraction of noise levels drawn evenly from 1 to 80, which the published method rarely draws"`
}

// Spec implements [Method].
func (m *EDM) Spec() Spec {
	return Spec{
		Name: "edm", About: "a denoiser, to use as a teacher (Karras et al. 2022)",
		Formulas: `D(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = (t² + σ_d²)/(t·σ_d)²·‖D_θ(x + t·z, t) - x‖²/D
ln t ~ N(-1.2, 1.2²), for a fraction (high) of the draws uniform from ln 1 to ln 80`,
		Forms: []checkpoint.FormType{checkpoint.EDM}, Function: denoiser, Guidable: true,
	}
}

// Objective implements [Method].
func (m *EDM) Objective(_ *Parts, f any) (training.Objective, error) {
	return &training.EDM{Model: f.(*models.EDM), High: *m.High}, nil
}
