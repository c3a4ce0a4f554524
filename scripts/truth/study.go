package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// variation is a MeanFlow that differs from the others in one setting.
type variation struct {
	of    string // the setting
	value string
	batch int // 0: the budget's
	training.MeanFlow
}

// variations are those of the study. Power 0 is 1e-9, since 0 stands for the default.
func variations() (all []variation) {
	base := training.MeanFlow{Mean: -2, Std: 2, Ratio: 0.75, Power: 1e-9}
	add := func(of, value string, change func(v *variation)) {
		v := variation{of: of, value: value, MeanFlow: base}
		change(&v)
		all = append(all, v)
	}
	for _, p := range []float64{0, 0.75, 1} {
		add("power", fmt.Sprint(p), func(v *variation) { v.Power = math.Max(p, 1e-9) })
	}
	for _, r := range []float64{0.25, 1} {
		add("ratio of r < τ", fmt.Sprint(r), func(v *variation) { v.Ratio = r })
	}
	for _, t := range [][2]float64{{-0.4, 1}, {-1, 2.5}} {
		add("times", fmt.Sprintf("N(%g, %g²)", t[0], t[1]), func(v *variation) { v.Mean, v.Std = t[0], t[1] })
	}
	add("batch", "64", func(v *variation) { v.batch = 64 })
	return all
}

// studyMeanFlow trains the variations in float64 and writes a table of their errors, with those that a perfect network would have.
func studyMeanFlow(ctx context.Context, path string) error {
	if err := torch.SetThreads(1); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(`# Where MeanFlow's error in two dimensions comes from

    go run ./scripts/truth -study

The data and the network are those of [truth.md](truth.md), trained in float64 for 2000 steps with batches of 256 and one seed. The setting in the
first column differs from power 0, a ratio of 0.75 and times N(-2, 2²). RMSE is that of the jump from a noise level to 0.

| setting | value | RMSE at 0.2 | 1 | 5 | 80 |
|---|---|---|---|---|---|
`)
	for _, v := range variations() {
		budget := budget{steps: 2000, batch: 256, lr: 3e-3, ema: 0.995, double: true}
		if v.batch > 0 {
			budget.batch = v.batch
		}
		m := jumping("MeanFlow", "", func(_ *lesson, f *models.MeanFlow) (training.Objective, error) {
			o := v.MeanFlow
			o.Model = f
			return &o, nil
		})
		t := newToy(budget, 0)
		l, err := t.train(ctx, m)
		var got measured
		if err == nil {
			got, err = t.measure(ctx, m, l.f, 2000)
		}
		t.close()
		if err != nil {
			return err
		}
		row := fmt.Sprintf("| %s | %s%s |\n", v.of, v.value, cells(got.RMSE))
		fmt.Print(row)
		b.WriteString(row)
	}
	b.WriteString(`
The same for a perfect network that has learned the velocity by the adaptive loss alone (r = τ), whose optimum is not the mean of the velocities
at a point but the root of E[w·(v - u)] with w = 1/(‖v - u‖² + 0.001)^power, and whose trajectories are followed by 32 of Heun's steps. It is computed
by quadrature at 24 points, without any training:

| power | RMSE at 0.2 | 1 | 5 | 80 |
|---|---|---|---|---|
`)
	for _, p := range []float64{0, 0.5, 0.75, 1} {
		row := fmt.Sprintf("| %g%s |\n", p, cells(perfect(p, 24)))
		fmt.Print(row)
		b.WriteString(row)
	}
	b.WriteString(`
The distance of that optimum from the mean at noise level 1, by element, in relation to the standard deviation of the posterior, where the data has
this distribution in D independent elements (power 0.75):

| D | 2 | 8 | 32 | 128 |
|---|---|---|---|---|
| distance`)
	for _, d := range []int{2, 8, 32, 128} {
		b.WriteString(fmt.Sprintf(" | %.3f", offMean(d, 0.75)))
	}
	b.WriteString(" |\n")
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

func cells(values []float64) (text string) {
	for _, v := range values {
		text += fmt.Sprintf(" | %.3f", v)
	}
	return text
}

// node is a point of a distribution along an axis, with its probability.
type node struct{ x, weight float64 }

// posterior returns nodes of p(x_0 | x) at noise level t, along an axis of the data.
func posterior(x, t float64) (nodes []node) {
	const n, reach = 17, 4.0
	var sum float64
	for _, c := range modelstest.Grid() {
		v := c.Std*c.Std + t*t
		mean, std := (c.Mean*t*t+x*c.Std*c.Std)/v, c.Std*t/math.Sqrt(v)
		part := math.Exp(-(x-c.Mean)*(x-c.Mean)/(2*v)) / math.Sqrt(v)
		for i := range n {
			z := reach * (2*float64(i)/(n-1) - 1)
			w := part * math.Exp(-z*z/2)
			nodes, sum = append(nodes, node{mean + std*z, w}), sum+w
		}
	}
	kept := nodes[:0]
	for _, p := range nodes {
		if p.weight /= sum; p.weight > 1e-10 {
			kept = append(kept, p)
		}
	}
	return kept
}

// adaptive returns the prediction of x_0 at x, in two dimensions, that the adaptive loss of that power has as its optimum: Σ w·x_0/Σ w, with
// the weights w of the predictions' own errors.
func adaptive(x [2]float64, t, power float64) (origin [2]float64) {
	a, b := posterior(x[0], t), posterior(x[1], t)
	tau := t / (1 + t)
	for iteration := range 200 {
		var sum [3]float64
		for _, p := range a {
			for _, q := range b {
				w := p.weight * q.weight
				if iteration > 0 { // the first is the mean
					dx, dy := (p.x-origin[0])/tau, (q.x-origin[1])/tau // v - u = (x̂ - x_0)/τ
					w /= math.Pow(dx*dx+dy*dy+1e-3, power)
				}
				sum[0], sum[1], sum[2] = sum[0]+w*p.x, sum[1]+w*q.x, sum[2]+w
			}
		}
		next := [2]float64{sum[0] / sum[2], sum[1] / sum[2]}
		if iteration > 0 && math.Abs(next[0]-origin[0])+math.Abs(next[1]-origin[1]) < 1e-6 {
			return next
		}
		if origin = next; power == 0 {
			break
		}
	}
	return origin
}

// perfect returns the RMSE, at the table's noise levels, of following the ODE of adaptive's predictions to its end.
func perfect(power float64, n int) (off []float64) {
	host := rand.New(rand.NewPCG(1, 0))
	axis := modelstest.Grid()
	for _, from := range levels {
		grid := noise.Karras(32, 0.002, from, 7)
		sum := 0.0
		for range n {
			var x, end [2]float64
			for i := range x {
				c := axis[host.IntN(len(axis))]
				x[i] = c.Mean + c.Std*host.NormFloat64() + from*host.NormFloat64()
				end[i] = axis.Move(x[i], from, 0.002)
			}
			for k := len(grid) - 1; k > 0; k-- {
				x = heun(x, grid[k], grid[k-1], power)
			}
			for i := range x {
				sum += (x[i] - end[i]) * (x[i] - end[i])
			}
		}
		off = append(off, math.Sqrt(sum/float64(2*n)))
	}
	return off
}

// heun takes a step of Heun's method along the ODE of adaptive's predictions.
func heun(x [2]float64, t, next, power float64) (y [2]float64) {
	slope := func(x [2]float64, t float64) (d [2]float64) {
		origin := adaptive(x, t, power)
		return [2]float64{(x[0] - origin[0]) / t, (x[1] - origin[1]) / t}
	}
	a := slope(x, t)
	for i := range y {
		y[i] = x[i] + (next-t)*a[i]
	}
	b := slope(y, next)
	for i := range y {
		y[i] = x[i] + (next-t)*(a[i]+b[i])/2
	}
	return y
}

// offMean returns the distance between the optimum of the adaptive loss and the mean in D dimensions, at noise level 1, by element and
// relative to the posterior's deviation, over points of the data and 2000 samples of each one's posterior.
func offMean(d int, power float64) float64 {
	const points, samples, t, tau = 10, 2000, 1.0, 0.5
	host := rand.New(rand.NewPCG(2, uint64(d)))
	axis := modelstest.Grid()
	var square, variance float64
	for range points {
		all := make([][]float64, samples)
		for j := range all {
			all[j] = make([]float64, d)
		}
		for i := range d {
			c := axis[host.IntN(len(axis))]
			nodes := posterior(c.Mean+c.Std*host.NormFloat64()+t*host.NormFloat64(), t)
			for j := range all {
				all[j][i] = drawNode(host, nodes)
			}
		}
		mean := weightedMean(all, func([]float64) float64 { return 1 })
		at := mean
		for range 40 {
			at = weightedMean(all, func(x []float64) float64 {
				sum := 1e-3
				for i := range x {
					sum += (x[i] - at[i]) * (x[i] - at[i]) / (tau * tau)
				}
				return math.Pow(sum, -power)
			})
		}
		for i := range at {
			square += (at[i] - mean[i]) * (at[i] - mean[i])
			for j := range all {
				variance += (all[j][i] - mean[i]) * (all[j][i] - mean[i]) / samples
			}
		}
	}
	return math.Sqrt(square / variance)
}

// drawNode draws one of the nodes by their probabilities.
func drawNode(host *rand.Rand, nodes []node) float64 {
	u := host.Float64()
	for _, p := range nodes {
		if u -= p.weight; u <= 0 {
			return p.x
		}
	}
	return nodes[len(nodes)-1].x
}

// weightedMean returns Σ w(x)·x/Σ w(x).
func weightedMean(all [][]float64, weight func(x []float64) float64) []float64 {
	mean, sum := make([]float64, len(all[0])), 0.0
	for _, x := range all {
		w := weight(x)
		sum += w
		for i := range x {
			mean[i] += w * x[i]
		}
	}
	for i := range mean {
		mean[i] /= sum
	}
	return mean
}
