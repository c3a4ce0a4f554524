package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/training"
)

// IMF is improved MeanFlow (Geng et al. 2025): see [training.IMF].
type IMF struct {
	Ratio    float64   `option:"ratio"`
	Power    float64   `option:"power"`
	Head     bool      `option:"head" help:"predict the direction of the derivative with a second network of the same size, for training only"`
	Guidance []float64 `option:"guidance"`
}

// Spec implements [Method].
func (m *IMF) Spec() Spec {
	copies := 0
	if m.Head {
		copies = 4 // weights, gradients and the optimizer's two moments
	}
	return Spec{
		Name: "imf", About: "improved MeanFlow: the derivative follows the predicted velocity (Geng et al. 2025)",
		Formulas: `y = (1-τ)·x + τ·z, v = z - x, the data at y - τ·u(y, 0, τ)
L = ‖V - v‖²/(‖V - v‖² + 0.01)^power, V = u_θ(y, r, τ) + (τ-r)·d/dτ u⁻(y, r, τ) along v̂ = u⁻(y, τ, τ)
with head: v̂ a network of its own, and L + ‖v̂ - v‖²/(‖v̂ - v‖² + 0.01)^power
with guidance: ω log-uniform in the range, an input; v + (1 - 1/ω)·(v̂(class, ω) - v̂(null, 1)) in place of v
ln(τ/(1-τ)) ~ N(-2, 2²), and so is r for a fraction (ratio) of the samples, else r = τ
Published: the loss, the head (with shared blocks) and guidance (with an interval of times as further inputs), with power 1 (ImageNet 256, FID 1.72 in one step, 1.54 in two); times and power as MeanFlow's for CIFAR-10.`,
		Forms: []checkpoint.FormType{checkpoint.Flow}, Until: true, Guidable: true, Derivatives: true, Copies: copies, Function: averageVelocity("imf"),
	}
}

// Fill implements [Filler]. It checks the guidance scales.
func (m *IMF) Fill(int) error {
	if n := len(m.Guidance); n != 0 && (n != 2 || m.Guidance[0] < 1 || m.Guidance[1] <= m.Guidance[0]) {
		return usage("guidance", "%s: want the two ends MIN,MAX of a range from 1 up to 1000, got %v", name("guidance"), m.Guidance)
	}
	return nil
}

// Objective implements [Method].
func (m *IMF) Objective(p *Parts, f any) (training.Objective, error) {
	o := &training.IMF{MeanFlow: training.MeanFlow{Model: f.(*models.MeanFlow), Mean: -2, Std: 2, Ratio: m.Ratio, Power: m.Power}}
	if m.Guidance != nil {
		if o.Null = p.Start.Network.NullClass(); o.Null < 0 {
			return nil, usage("guidance", "%s: guidance needs predictions without a class: %s", name("guidance"), set("label-dropout", "0.1"))
		}
	}
	if m.Head {
		head, err := p.Copy()
		if err != nil {
			return nil, err
		}
		o.Head = head.(*models.MeanFlow)
		o.Head.Net.(network.Network).Store().SetRequiresGrad(true) // copies are made for targets
	}
	return o, nil
}
