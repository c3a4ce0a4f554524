package recipe

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training"
)

// PD is progressive distillation (Salimans & Ho 2022): see [training.PD].
type PD struct {
	Teacher string `option:"teacher"`
	First   int    `option:"first" range:"[1,1024]" help:"sampling steps of the first student, a power of two (default: 16, or fewer in a short run)"`
	Last    int    `option:"last" default:"1" range:"[1,1024]" help:"sampling steps of the last student, a power of two"`
}

// Spec implements [Method].
func (m *PD) Spec() Spec {
	return Spec{
		Name: "pd", About: "progressive distillation (Salimans & Ho 2022) of a denoiser",
		Formulas: `D(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = max(1/t², 1)·‖D_θ(x_t, t) - D*‖²/D, D* the prediction whose one DDIM step ends where two of the teacher's end
N sampling steps, halved in each stage; the student of one stage is the teacher of the next`,
		Forms: []checkpoint.FormType{checkpoint.EDM}, Teachers: every, Function: denoiser, Distils: true, Stages: true, Leveled: true, Guidable: true,
	}
}

// Fill implements [Filler].
func (m *PD) Fill(steps int) error {
	if m.First != 0 && !powerOfTwo(m.First) || !powerOfTwo(m.Last) || m.First != 0 && m.First < m.Last {
		return usage("first", "%s, %s: want powers of two up to 1024, the second not above the first, got %d and %d", name("first"), name("last"), m.First, m.Last)
	}
	if m.First == 0 {
		// A stage of fewer than about 200 steps learns little. There are log2(First)+1 stages, and the last two count twice.
		for m.First = 16; m.First > max(2, m.Last) && steps < 200*(bits.Len(uint(m.First))+2); {
			m.First /= 2
		}
	}
	if least := m.stages(steps).LeastSteps(); steps < least {
		return usage("steps", "%s: want at least %d for the stages from %d to %d sampling steps, and better about 200 per stage, got %d",
			name("steps"), least, m.First, m.Last, steps)
	}
	return nil
}

func powerOfTwo(n int) bool { return n > 0 && n <= 1024 && n&(n-1) == 0 }

func (m *PD) stages(steps int) *training.PD {
	return &training.PD{First: m.First, Last: m.Last, Steps: steps}
}

// Table implements [Tabler].
func (m *PD) Table(steps int) (table, note string, err error) {
	var b strings.Builder
	b.WriteString("| step | the student's sampling steps |\n|---|---|\n")
	stages, last := m.stages(steps), 0.0
	for k := range steps {
		if n := stages.Stats(k)["steps"]; n != last {
			fmt.Fprintf(&b, "| %d | %.0f |\n", k, n)
			last = n
		}
	}
	return b.String(), "", nil
}

// Objective implements [Method].
func (m *PD) Objective(p *Parts, f any) (training.Objective, error) {
	c, err := p.Copy()
	if err != nil {
		return nil, err
	}
	o := m.stages(p.Steps)
	o.Model, o.Teacher, o.Copy = f.(*models.EDM), p.Teacher, c.(*models.EDM)
	return o, nil
}
