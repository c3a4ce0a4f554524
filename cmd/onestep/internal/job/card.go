package job

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/training"
)

// Card says in Markdown what a run minimises: the formulas of its method, the values that its schedules take in this run, and
// what is known in advance of what it can reach. The options have to be resolved; start is what the run starts from, of Plan.
func (o Train) Card(start checkpoint.Description) (string, error) {
	m, err := methodNamed(o.Method)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n", m.name, m.about)
	for line := range strings.Lines(strings.TrimSpace(m.formulas)) {
		fmt.Fprintf(&b, "    %s\n", strings.TrimSpace(line))
	}
	b.WriteString("\nσ_d = 0.5, levels from 0.002 to 80.")
	if slices.Contains(m.options, "distance") {
		fmt.Fprintf(&b, " d is %s.", distances[o.Distance])
	}
	if o.starts() {
		fmt.Fprintf(&b, "\n\nThe run starts with the network of %s, of the form %s: what it predicts stands for F.", quote.Path(o.Init), quote.Text(start.Form.Type))
	}
	switch len(o.Guidance) {
	case 1:
		fmt.Fprintf(&b, "\n\nThe teacher is guided with scale %s.", number.Short(o.Guidance[0]))
	case 2:
		fmt.Fprintf(&b, "\n\nThe teacher is guided with a scale drawn from %s to %s, which the student gets as an input.", number.Short(o.Guidance[0]), number.Short(o.Guidance[1]))
	}
	decay := fmt.Sprintf("over the last %s of the run", number.Short(o.LRDecay))
	if m.stages {
		decay = "in every stage"
	}
	fmt.Fprintf(&b, "\n\n%d steps of %d images, RAdam with a learning rate of %s that falls to 0 %s; averages with decay %.4g a step.\n",
		o.Steps, o.Batch, number.Short(o.LR), decay, o.EMA)
	b.WriteString(o.past())
	if m.schedule == nil {
		return b.String(), nil
	}
	rows, note, err := m.schedule(o)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "\n%s", rows)
	if note != "" {
		fmt.Fprintf(&b, "\n%s\n", note)
	}
	return b.String(), nil
}

// distances are what the names stand for, of samples of D elements.
var distances = map[string]string{
	"l1": "Σ|a-b|/D", "l2": "‖a-b‖²/D", "norm": "‖a-b‖", "huber": "√(‖a-b‖² + c²) - c with c = 0.00054·√D", lpipsName: "LPIPS",
}

// moments are the steps of a run that a card shows.
func (o Train) moments() []int {
	last := max(0, o.Steps-1)
	return []int{0, last / 10, last / 4, last / 2, last * 3 / 4, last}
}

// levelsCard shows a schedule of noise levels, and what the last of them cost by that solver.
func (o Train) levelsCard(schedule training.Schedule, solver training.Solver, gap bool) (string, string, error) {
	var b strings.Builder
	b.WriteString("| step | N | μ | λ |\n|---|---|---|---|\n")
	last, before := 0, -1.0
	for _, k := range o.moments() {
		n, decay := schedule.At(k)
		if n == last && decay == before {
			continue
		}
		before = decay
		levels := noise.Karras(n, 0.002, 80, 7)
		weight := "1"
		if gap {
			weight = fmt.Sprintf("%.3g to %.3g", 1/(levels[n-1]-levels[n-2]), 1/(levels[1]-levels[0]))
		}
		fmt.Fprintf(&b, "| %d | %d | %.4g | %s |\n", k, n, decay, weight)
		last = n
	}
	bias, err := training.GaussianBias(solver, noise.Karras(last, 0.002, 80, 7), 0.5)
	note := fmt.Sprintf("With %d levels, perfect training leaves %.4g of the deviation of Gaussian data in samples of one step (closed form); 1 is all of it.", last, bias)
	return b.String(), note, err
}

// stagesCard shows how near the lower level of a pair comes to the upper one.
func stagesCard(o Train) (string, string, error) {
	e := &training.ECT{Steps: o.Steps, Stages: o.Stages, Q: o.Q}
	var b strings.Builder
	b.WriteString("| step | stage | r/t at 0.1 | 1 | 10 | 80 |\n|---|---|---|---|---|---|\n")
	for stage := range o.Stages {
		k := int(math.Ceil(float64(stage) * float64(o.Steps) / float64(o.Stages)))
		fmt.Fprintf(&b, "| %d | %d", k, stage)
		for _, t := range []float64{0.1, 1, 10, 80} {
			fmt.Fprintf(&b, " | %.3g", e.Lower(t, k)/t)
		}
		b.WriteString(" |\n")
	}
	return b.String(), "Where r is 0, the target is the clean image.", nil
}

// euler is the solver whose answer consistency training has on Gaussian data.
var euler = sampling.Euler{}
