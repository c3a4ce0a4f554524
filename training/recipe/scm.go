package recipe

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// SCT is continuous-time consistency training (Lu & Song 2024): see [training.SCM].
type SCT struct {
	Warmup *int    `option:"warmup" range:"[0,1e9]" value:"N" help:"warm-up steps of the tangent (default: a tenth of the run)"`
	Weight string  `option:"weight" default:"learned" choices:"learned,prior" help:"weighting of noise levels: learned on top of the prior 1/t, or the prior only"`
	Step   float64 `option:"step" range:"[0,1.5707963)" help:"step of finite differences in the angle, such as 0.005, in place of derivatives (default 0: exact derivatives)"`
}

// Spec implements [Method].
func (m *SCT) Spec() Spec {
	return inContinuousTime("sct", "continuous-time consistency training (Lu & Song 2024)", m.Step)
}

// Fill implements [Filler].
func (m *SCT) Fill(steps int) error {
	warmUp(&m.Warmup, steps)
	return nil
}

// Objective implements [Method].
func (m *SCT) Objective(p *Parts, f any) (training.Objective, error) {
	return p.inContinuousTime(f, *m.Warmup, m.Weight, m.Step)
}

// SCD is continuous-time consistency distillation of a denoiser (Lu & Song 2024): see [training.SCM].
type SCD struct {
	Teacher string  `option:"teacher"`
	Warmup  *int    `option:"warmup"`
	Weight  string  `option:"weight"`
	Step    float64 `option:"step"`
}

// Spec implements [Method].
func (m *SCD) Spec() Spec {
	s := inContinuousTime("scd", "continuous-time consistency distillation (Lu & Song 2024) of a denoiser", m.Step)
	s.Distils = true
	return s
}

// Fill implements [Filler].
func (m *SCD) Fill(steps int) error {
	warmUp(&m.Warmup, steps)
	return nil
}

// Objective implements [Method].
func (m *SCD) Objective(p *Parts, f any) (training.Objective, error) {
	return p.inContinuousTime(f, *m.Warmup, m.Weight, m.Step)
}

// inContinuousTime is the specification that SCT and SCD share.
func inContinuousTime(name, about string, step float64) Spec {
	return Spec{
		Name: name, About: about,
		Formulas: `y = cos(a)·x + sin(a)·σ_d·z, a = arctan(t/σ_d), ln t ~ N(-1, 1.4²)
f(y, a) = cos(a)·y - sin(a)·σ_d·F(y/σ_d, a)
g = -cos²(a)·(σ_d·F⁻ - dy/da) - r·cos(a)·sin(a)·(y + σ_d·dF⁻/da), r = min(1, k/warmup)
L = e^w(a)/D·‖F_θ - F⁻ - g/(‖g‖ + 0.1)‖² - w(a), w learned or 0
dy/da = cos(a)·σ_d·z - sin(a)·x, or of the teacher's trajectory`,
		Forms:       []checkpoint.FormType{checkpoint.TrigFlow, checkpoint.EDM, checkpoint.VP, checkpoint.Flow},
		Function:    func(m Model) (any, error) { return m.Start.Form.Trig(m.Net, m.Start.SigmaData) },
		Derivatives: step == 0,
	}
}

func warmUp(steps **int, of int) {
	if *steps == nil {
		*steps = new(of / 10)
	}
}

func (p *Parts) inContinuousTime(f any, warmup int, weight string, step float64) (training.Objective, error) {
	c := &training.SCM{Model: f.(*models.TrigConsistency), Teacher: p.Teacher, Warmup: warmup, Step: step}
	if weight == "prior" {
		return c, nil
	}
	w, err := training.NewAdaptiveWeight(p.Device, p.Seed)
	if err != nil {
		return nil, err
	}
	p.Own(w.Close)
	c.Weight = w
	return c, nil
}
