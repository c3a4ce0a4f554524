package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// SoFlow trains jumps along a flow's trajectories, without a teacher and without derivatives (Luo et al. 2025): see [training.SoFlow].
type SoFlow struct {
	Power     float64 `option:"power"`
	FlowRatio float64 `option:"flow-ratio" range:"[0,1]" help:"fraction of samples trained by flow matching alone, 0.75 in the published runs on ImageNet (default 0)"`
	Gap       float64 `option:"gap" default:"1" range:"(0,1]" help:"first step from the upper time, as a fraction of the way to the lower one, at the start of the run"`
	LastGap   float64 `option:"last-gap" default:"0.0003125" range:"(0,1]" help:"the same at the end of the run"`
}

// Spec implements [Method].
func (m *SoFlow) Spec() Spec {
	return Spec{
		Name: "soflow", About: "SoFlow: jumps along a flow, without a teacher or derivatives (Luo et al. 2025)",
		Formulas: `y = (1-τ)·x + τ·z, v = z - x, f(y, τ, r) = y - (τ-r)·u(y, r, τ), the data at f(y, τ, 0)
L = ½·‖f_θ(y, τ, r) - f_θ⁻(y - (τ-l)·v, l, r)‖²/D/((τ-l)·(τ-r))/(‖δ‖²/D + 0.001)^power, δ the difference over τ-l
for a fraction (flow-ratio) of the samples L = ‖u_θ(y, τ, τ) - v‖²/D/(‖u_θ - v‖²/D + 0.001)^power
l = τ - g·(τ-r), g from gap to last-gap exponentially; ln(τ/(1-τ)) ~ N(-0.9, 1.6²), ln(r/(1-r)) ~ N(-4, 1.6²), r below τ
Published: times, gaps and power for CIFAR-10 (FID 2.86 in one step, 2.28 in two). Without guidance in training.`,
		Forms: []checkpoint.FormType{checkpoint.Flow}, Until: true, Guidable: true, Function: averageVelocity("soflow"),
	}
}

// averageVelocity returns a [Spec]'s Function for average velocities.
func averageVelocity(method string) func(Model) (any, error) {
	return func(m Model) (any, error) {
		if m.Start.Form.Reversed {
			return nil, usage("init", "%s: the model's time runs from noise (0) to data (1), which the method %s does not support", name("init"), method)
		}
		return &models.MeanFlow{Net: m.Net, Scale: m.Start.Form.Scale, Interval: m.Start.Form.Interval}, nil
	}
}

// Objective implements [Method].
func (m *SoFlow) Objective(p *Parts, f any) (training.Objective, error) {
	return &training.SoFlow{Model: f.(*models.MeanFlow), Steps: p.Steps, First: m.Gap, Last: m.LastGap, Flow: m.FlowRatio, Power: m.Power}, nil
}
