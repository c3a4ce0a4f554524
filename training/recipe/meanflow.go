package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// MeanFlow trains average velocities, without a teacher (Geng et al. 2025): see [training.MeanFlow].
type MeanFlow struct {
	Ratio float64 `option:"ratio" default:"0.75" range:"(0,1]" help:"fraction of samples with two different times"`
	Power float64 `option:"power" default:"0.75" range:"(0,1]" help:"power of the adaptive loss weight; with 1 all samples have the same weight"`
}

// Spec implements [Method].
func (m *MeanFlow) Spec() Spec {
	return Spec{
		Name: "meanflow", About: "MeanFlow: average velocities, without a teacher (Geng et al. 2025)",
		Formulas: `y = (1-τ)·x + τ·z, v = z - x, the data at y - τ·u(y, 0, τ)
L = ‖Δ‖²/(‖Δ‖² + 0.001)^power, Δ = u_θ(y, r, τ) - v + (τ-r)·d/dτ u_θ(y, r, τ)
ln(τ/(1-τ)) ~ N(-2, 2²), and so is r for a fraction (ratio) of the samples, else r = τ`,
		Forms: []checkpoint.FormType{checkpoint.Flow}, Until: true, Guidable: true, Derivatives: true,
		Function: averageVelocity("meanflow"),
	}
}

// Objective implements [Method].
func (m *MeanFlow) Objective(_ *Parts, f any) (training.Objective, error) {
	return &training.MeanFlow{Model: f.(*models.MeanFlow), Mean: -2, Std: 2, Ratio: m.Ratio, Power: m.Power}, nil
}
