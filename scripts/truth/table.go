package main

import (
	"fmt"
	"math"
	"strings"
)

// table writes the results as Markdown: means over the seeds.
func table(results []result, seeds int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What each method learns, against the exact function

    make truth

Every method learns nine narrow modes in two dimensions (each axis a mixture at -0.6, 0 and 0.6 with deviation 0.1, so that its
own is 0.5), where the consistency function is known exactly: f(x, t) = F_ε⁻¹(F_t(x)) along each axis. An MLP of 3 layers of 128,
%d steps of %d samples, RAdam with a learning rate of %g that falls to 0 over the second half, averages with decay %g; means
over %d seeds, and for the error at 80 the smallest and largest.

RMSE is that of f(x_t, t), of a teacher's denoiser against the exact one, and of a method that draws in one step only, at 80. Of
methods that follow a solver, "solver" is that solver's own distance from the exact function (discretisation) and
"training" the student's from the solver (what a longer run would take away). W1 is the first Wasserstein distance of samples
to the data along an axis, std their deviation (0.5 is right), in one step from 80 and in two (0.821).

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
		cells := []string{fmt.Sprintf("%s<br><small>%s</small>", m.name, m.about)}
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
		fmt.Fprintf(&b, "- %s: %.1f times as far at 80 as %s.\n", m.name, *bad / *good, m.worse)
	}
	return b.String()
}

// mean is over the results that have the figure; nil: none has, or it is negative, which stands for none.
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
