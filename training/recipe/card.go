package recipe

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Card describes the run in Markdown: the formulas of its method, the values of its schedules, and the accuracy that it can reach, where
// that is known in advance.
func (p *Plan) Card() (string, error) {
	r := &p.Run
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n", p.spec.Name, p.spec.About)
	for line := range strings.Lines(strings.TrimSpace(p.spec.Formulas)) {
		fmt.Fprintf(&b, "    %s\n", strings.TrimSpace(line))
	}
	b.WriteString("\nσ_d = 0.5, levels from 0.002 to 80.")
	if d := valueOf[string](r, "distance"); d != "" {
		fmt.Fprintf(&b, " d is %s.", distances[d])
	}
	if r.starts() {
		fmt.Fprintf(&b, "\n\nThe run starts from the network of %s, of the form %s: its prediction stands for F.", quote.Path(r.Init), quote.Text(p.Start.Form.Type))
	} else if r.teacher() != "" {
		b.WriteString("\n\nThe run starts from random weights.")
	}
	switch scales := r.guidance(); len(scales) {
	case 1:
		fmt.Fprintf(&b, "\n\nThe teacher's guidance scale is %s.", number.Short(scales[0]))
	case 2:
		whose, input := "The teacher's guidance scale", "an input of the student"
		if r.teacher() == "" {
			whose, input = "The guidance scale ω", "an input of the network"
		}
		fmt.Fprintf(&b, "\n\n%s is drawn from %s to %s, and is %s.", whose, number.Short(scales[0]), number.Short(scales[1]), input)
	}
	decay := fmt.Sprintf("over the last %s of the run", number.Short(*r.LRDecay))
	if p.spec.Stages {
		decay = "in every stage"
	}
	fmt.Fprintf(&b, "\n\n%s of %s, RAdam with a learning rate of %s that falls to 0 %s; EMA weights with a decay of %.4g per step.\n",
		plural.N(r.Steps, "step"), plural.N(r.Batch, "image"), number.Short(r.LR), decay, *r.EMA)
	if d := r.precision(); d != torch.Float32 {
		fmt.Fprintf(&b, "\nMixed precision: networks compute in %s; weights, EMA weights, losses and derivatives are float32.\n", d)
	}
	b.WriteString(r.past())
	t, ok := r.Method.(Tabler)
	if !ok {
		return b.String(), nil
	}
	rows, note, err := t.Table(r.Steps)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "\n%s", quote.Lines(rows))
	if note != "" {
		fmt.Fprintf(&b, "\n%s\n", quote.Lines(note))
	}
	return b.String(), nil
}
