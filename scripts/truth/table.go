package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
)

// table writes the results as Markdown: means over the seeds.
func table(results []result, seeds int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Training methods compared with the exact function

    make truth

The data is a mixture of nine narrow Gaussians in two dimensions: along each axis the means are -0.6, 0 and 0.6 and the standard deviation of
each component is 0.1, so that of the data is 0.5. Its consistency function is known exactly: f(x, t) = F_ε⁻¹(F_t(x)) along each axis, where
F_t is the cumulative distribution function at noise level t. The network is an MLP with 3 layers of 128 units, trained for %d steps with
batches of %d, RAdam, a learning rate of %g with linear decay over the second half, and EMA decay %g. Numbers are means over %d seeds; for the
error at noise level 80 also the smallest and largest value.

RMSE is the root-mean-square error of f(x_t, t) at four noise levels; for teachers that of the denoiser, and for methods that sample in one step
only that at 80. For methods that follow a solver, "solver" is the solver's own distance from the exact function (discretisation error) and
"training" is the student's distance from the solver (which longer training would reduce). W1 is the first Wasserstein distance between samples
and data along an axis, and std is the samples' standard deviation (0.5 is exact), for sampling in one step from 80 and in two steps (0.821).

| method | RMSE at 0.2 | 1 | 5 | 80 | solver | training | 1 step: W1 | std | 2 steps: W1 | std |
|---|---|---|---|---|---|---|---|---|---|---|
`, full.steps, full.batch, full.lr, full.ema, seeds)
	by := map[string][]result{}
	for _, r := range results {
		by[r.Method] = append(by[r.Method], r)
	}
	for _, m := range methods() {
		rs := by[m.name]
		if len(rs) == 0 {
			continue
		}
		about := m.about
		if len(rs) != seeds {
			about += "; " + plural.N(len(rs), "seed")
		}
		cells := []string{fmt.Sprintf("%s<br><small>%s</small>", m.name, about)}
		for i := range levels {
			v := mean(rs, func(r result) *float64 { return &r.RMSE[i] })
			text := number(v)
			if i == len(levels)-1 && v != nil {
				lo, hi := math.Inf(1), math.Inf(-1)
				for _, r := range rs {
					lo, hi = math.Min(lo, r.RMSE[i]), math.Max(hi, r.RMSE[i])
				}
				text += fmt.Sprintf(" (%.3f to %.3f)", lo, hi)
			}
			cells = append(cells, text)
		}
		cells = append(cells,
			number(mean(rs, func(r result) *float64 { return r.Solver })),
			number(mean(rs, func(r result) *float64 { return r.Training })))
		for _, of := range []func(r result) *law{func(r result) *law { return r.One }, func(r result) *law { return r.Two }} {
			for _, what := range []func(l *law) *float64{func(l *law) *float64 { return &l.W1 }, func(l *law) *float64 { return &l.Std }} {
				cells = append(cells, number(mean(rs, func(r result) *float64 {
					if l := of(r); l != nil {
						return what(l)
					}
					return nil
				})))
			}
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintln(&b)
	for _, m := range methods() {
		if m.worse == "" || len(by[m.name]) == 0 || len(by[m.worse]) == 0 {
			continue
		}
		at80 := func(r result) *float64 { return &r.RMSE[len(r.RMSE)-1] }
		bad, good := mean(by[m.name], at80), mean(by[m.worse], at80)
		fmt.Fprintf(&b, "- %s: the RMSE at 80 is %.1f times that of %s.\n", m.name, *bad / *good, m.worse)
	}
	return b.String() + jumpsTable(by)
}

// jumpsTable compares numbers of jumps, for models that have them.
func jumpsTable(by map[string][]result) string {
	var rows strings.Builder
	for _, m := range methods() {
		var rs []result
		for _, r := range by[m.name] {
			if len(r.Jumps) == len(hops) {
				rs = append(rs, r)
			}
		}
		if len(rs) == 0 {
			continue
		}
		cells := []string{m.name}
		for i := range hops {
			cells = append(cells, number(mean(rs, func(r result) *float64 { return &r.Jumps[i].RMSE })))
		}
		for i := range hops {
			cells = append(cells, number(mean(rs, func(r result) *float64 { return &r.Jumps[i].W1 })))
		}
		fmt.Fprintf(&rows, "| %s |\n", strings.Join(cells, " | "))
	}
	if rows.Len() == 0 {
		return ""
	}
	return `
## Jumps in several parts

A model of jumps can go from noise to data in several jumps, one after the other and without new noise, here at equal distances of σ/(1+σ). The exact
function has the same end however many there are.

| method | RMSE, 1 jump | 2 | 4 | 8 | W1, 1 jump | 2 | 4 | 8 |
|---|---|---|---|---|---|---|---|---|
` + rows.String()
}

// mean is the mean over the results that have a value; nil: none has. Negative values count as missing.
func mean(rs []result, of func(r result) *float64) *float64 {
	sum, n := 0.0, 0
	for _, r := range rs {
		if v := of(r); v != nil && *v >= 0 {
			sum, n = sum+*v, n+1
		}
	}
	if n == 0 {
		return nil
	}
	sum /= float64(n)
	return &sum
}

func number(v *float64) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("%.3f", *v)
}
