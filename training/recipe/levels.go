package recipe

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/internal/bias"
)

// solvers are the ODE solvers along a teacher's trajectory, by name.
var solvers = map[string]training.Solver{"euler": solver.Euler{}, "heun": solver.Heun{}, "dpmpp_2s": solver.DPMpp2S{}}

// growing fills in the numbers of noise levels at the start and the end of a run.
func growing(s0, s1 *int, from, to int) error {
	if *s0 == 0 {
		*s0 = from
	}
	if *s1 == 0 {
		*s1 = max(to, *s0)
	}
	if *s1 < *s0 {
		return usage("s1", "%s, %s: want at least as many noise levels at the end as at the start, got %d and %d", name("s0"), name("s1"), *s0, *s1)
	}
	return nil
}

// levelsTable shows a schedule of noise levels, and the discretisation error of the last ones with that solver. gap is whether pairs of
// levels are weighted by the inverse of the gap between them.
func levelsTable(schedule training.Schedule, steps int, by training.Solver, gap bool) (string, string, error) {
	var b strings.Builder
	b.WriteString("| step | N | μ | λ |\n|---|---|---|---|\n")
	last, before := 0, -1.0
	for _, k := range moments(steps) {
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
	left, err := bias.Gaussian(by, noise.Karras(last, 0.002, 80, 7), 0.5)
	note := fmt.Sprintf("With %d levels, a perfectly trained model generates Gaussian data in one step with %.4g of its standard deviation (closed form); 1 is exact.", last, left)
	return b.String(), note, err
}

// moments are the steps of a run in the card's table.
func moments(steps int) []int {
	last := max(0, steps-1)
	return []int{0, last / 10, last / 4, last / 2, last * 3 / 4, last}
}
