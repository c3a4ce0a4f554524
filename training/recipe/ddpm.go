package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/training"
)

// DDPM trains a denoiser that predicts the noise at discrete timesteps (Ho et al. 2020): see [training.DDPM].
type DDPM struct {
	Betas string `option:"betas" default:"linear" choices:"linear,cosine" help:"beta schedule"`
	Chain int    `option:"chain" default:"1000" range:"[2,1000000]" help:"number of timesteps"`
}

// Spec implements [Method].
func (m *DDPM) Spec() Spec {
	return Spec{
		Name: "ddpm", About: "a denoiser that predicts the noise at discrete timesteps (Ho et al. 2020)",
		Formulas: `L = ‖F_θ(√ᾱ_i·x + √(1-ᾱ_i)·z, i) - z‖²/D, i uniform`,
		Forms:    []checkpoint.FormType{checkpoint.DDPM}, Function: denoiser, Guidable: true,
	}
}

// Form implements [Former].
func (m *DDPM) Form() checkpoint.Form {
	schedule := map[string]noise.Schedule{"linear": noise.Linear, "cosine": noise.Cosine}[m.Betas]
	return checkpoint.Form{Type: checkpoint.DDPM, Betas: &noise.Betas{Schedule: schedule, Steps: m.Chain}}
}

// Adopt implements [Former].
func (m *DDPM) Adopt(f checkpoint.Form) error {
	if f.Values != nil {
		return usage("init", "%s: the model has a chain of its own betas, of no named schedule: continue with another method, or start from another model", name("init"))
	}
	if f.Betas == nil {
		return nil
	}
	schedule, err := f.Betas.Schedule.MarshalText()
	switch {
	case err != nil:
		return err
	case m.Betas != "" && m.Betas != string(schedule):
		return usage("betas", "%s %s: the model that the run starts from has the beta schedule %s: leave the option out", name("betas"), m.Betas, schedule)
	case m.Chain != 0 && m.Chain != f.Betas.Steps:
		return usage("chain", "%s %d: the model that the run starts from has %d timesteps: leave the option out", name("chain"), m.Chain, f.Betas.Steps)
	}
	m.Betas, m.Chain = string(schedule), f.Betas.Steps
	return nil
}

// Objective implements [Method].
func (m *DDPM) Objective(_ *Parts, f any) (training.Objective, error) {
	return &training.DDPM{Model: f.(*models.DDPM)}, nil
}
