package recipe

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// AlphaFlow trains average velocities by losses that pass from flow matching to MeanFlow's (Zhang et al. 2025): see [training.AlphaFlow].
type AlphaFlow struct {
	Ratio    float64 `option:"ratio"`
	Power    float64 `option:"power"`
	Alpha    float64 `option:"alpha" range:"[0,1]" help:"constant α: 1 is trajectory flow matching, 0.5 with shortcut a shortcut model (default 0: α falls from 1 to 0, where the loss is MeanFlow's)"`
	From     float64 `option:"alpha-from" range:"[0,1)" help:"fraction of the run at which α begins to fall (default 0)"`
	To       float64 `option:"alpha-to" default:"1" range:"(0,1]" help:"fraction of the run at which α has fallen"`
	Shortcut bool    `option:"shortcut" help:"compute the first part of a jump with the model, not from the sample; needs alpha"`
}

// Spec implements [Method].
func (m *AlphaFlow) Spec() Spec {
	return Spec{
		Name: "alphaflow", About: "α-Flow: average velocities, from flow matching to MeanFlow (Zhang et al. 2025)",
		Formulas: `y = (1-τ)·x + τ·z, v = z - x, the data at y - τ·u(y, 0, τ)
m = α·r + (1-α)·τ, Δ = u_θ(y, r, τ) - α·v - (1-α)·u_θ⁻(y - (τ-m)·v, r, m); with shortcut u_θ⁻(y, m, τ) in place of v
L = ‖Δ‖²/α/(‖Δ‖²/α² + 0.001)^power; at α = 0 MeanFlow's, at α = 1 trajectory flow matching
α = 1 - sigmoid(25·(k/K - (from+to)/2)/(to-from)), 1 above 0.995 and 0 below 0.005
ln(τ/(1-τ)) ~ N(-2, 2²), and so is r for a fraction (ratio) of the samples, else r = τ
Published: schedule and loss, with power 1 and 0.001 in place of 0.001·α² (ImageNet 256, FID 2.58 in one step, 2.15 in two); times and power as MeanFlow's for CIFAR-10.`,
		Forms: []checkpoint.FormType{checkpoint.Flow}, Until: true, Guidable: true, Derivatives: m.Alpha == 0, Function: averageVelocity("alphaflow"),
	}
}

// Fill implements [Filler]. It checks options that belong together.
func (m *AlphaFlow) Fill(int) error {
	if m.From >= m.To {
		return usage("alpha-from", "%s, %s: want the second fraction above the first, got %g and %g", name("alpha-from"), name("alpha-to"), m.From, m.To)
	}
	if m.Shortcut && m.Alpha == 0 {
		return usage("shortcut", "%s needs a constant α: %s", name("shortcut"), set("alpha", "0.5"))
	}
	return nil
}

// Table implements [Tabler]. It shows α over the run.
func (m *AlphaFlow) Table(steps int) (table, note string, err error) {
	o := m.objective(steps)
	var b strings.Builder
	b.WriteString("| step | α |\n|---|---|\n")
	last := -1.0
	for _, k := range moments(steps) {
		if alpha := o.Alpha(k); alpha != last {
			fmt.Fprintf(&b, "| %d | %.4g |\n", k, alpha)
			last = alpha
		}
	}
	return b.String(), "", nil
}

func (m *AlphaFlow) objective(steps int) *training.AlphaFlow {
	return &training.AlphaFlow{
		MeanFlow: training.MeanFlow{Mean: -2, Std: 2, Ratio: m.Ratio, Power: m.Power},
		Steps:    steps, From: m.From, To: m.To, Constant: m.Alpha, Shortcut: m.Shortcut,
	}
}

// Objective implements [Method].
func (m *AlphaFlow) Objective(p *Parts, f any) (training.Objective, error) {
	o := m.objective(p.Steps)
	o.Model = f.(*models.MeanFlow)
	return o, nil
}
