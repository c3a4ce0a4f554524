package scheduler

import (
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// levels are timesteps with their noise levels σ = √((1-ᾱ)/ᾱ): what Euler, Heun, DPM-Solver++ and UniPC go along. They keep
// all steps, and begin counts those that are left out, because methods of several steps look at how many are to come.
type levels struct {
	*chain
	at     []float64
	sigmas []float32 // one more than timesteps: where the last step ends
	begin  int
}

// sigmaTable returns the level of each timestep. A chain that ends in pure noise has the largest level that diffusers gives it.
func (c *chain) sigmaTable() []float32 {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	alphas := slices.Clone(c.alphas)
	if c.ZeroSNR {
		alphas[len(alphas)-1] = noise.LastAlpha
	}
	a := torch.FromSlice(s, alphas, len(alphas))
	return torch.ToSlice[float32](a.Neg(s).AddScalar(s, 1).Div(s, a).Sqrt(s))
}

// newLevels chooses timesteps and levels. ends is for methods whose timesteps leave room for the end of the last step (DPM-Solver++
// and UniPC), which diffusers counts as a step of its own and which are whole numbers.
func newLevels(c noise.Config, o Options, k class, karras, ends bool) (levels, error) {
	ch, n, skip, err := begun(c, o, k)
	if err != nil {
		return levels{}, err
	}
	spacing, err := levelSpacing(c, karras, o)
	if err != nil {
		return levels{}, err
	}
	if spacing != "" && o.Timesteps != nil {
		return levels{}, fmt.Errorf("timesteps were given, but %s noise levels have timesteps of their own: want one of them", quote.Text(spacing))
	}
	l := levels{chain: ch, begin: skip}
	switch {
	case o.Timesteps != nil:
		l.at = (&grid{at: o.Timesteps}).Timesteps()
	case ends && ch.Spacing != "trailing":
		for i, t := range ch.withEnd(n) {
			if i < n {
				l.at = append(l.at, t)
			}
		}
	default:
		l.at = ch.spaced(n, ends)
	}
	for _, t := range l.at {
		if t < 0 || t > float64(ch.TrainSteps-1) {
			return levels{}, inside([]int{int(t)}, ch.TrainSteps)
		}
	}
	table := ch.sigmaTable()
	var sigmas []float64
	if spacing != "" {
		round := k.whole || ends && (k.uni || ch.BetaSchedule != "squaredcos_cap_v2")
		sigmas = l.respace(spacing, table, n, ends, round && spacing == karrasLevels)
	} else {
		for _, t := range l.at {
			sigmas = append(sigmas, between(table, t))
		}
	}
	last := 0.0
	switch {
	case ch.FinalSigma == "sigma_min" && spacing != "" && k.uni:
		last = sigmas[n-1]
	case ch.FinalSigma == "sigma_min":
		last = float64(root((1 - ch.alphas[0]) / ch.alphas[0]))
	}
	for _, v := range append(sigmas, last) {
		l.sigmas = append(l.sigmas, float32(v))
	}
	return l, nil
}

// withEnd is spaced for n steps and the end of the last.
func (c *chain) withEnd(n int) []float64 {
	if c.Spacing == "linspace" {
		return c.spaced(n+1, true)
	}
	out := make([]float64, n+1)
	for i := range out {
		out[i] = float64((n-i)*(c.TrainSteps/(n+1)) + c.StepsOffset)
	}
	return out
}

// between interpolates a table linearly, as numpy.interp does.
func between(table []float32, t float64) float64 {
	j := int(t)
	if j >= len(table)-1 {
		return float64(table[len(table)-1])
	}
	lo, hi := float64(table[j]), float64(table[j+1])
	return float64((hi-lo)*(t-float64(j))) + lo
}

// respace returns n levels between the largest and the smallest in that spacing, and sets the timesteps to those with these levels.
// Between whose levels: those of all timesteps (DPM-Solver++, UniPC, DEIS, which cut the timesteps to whole ones), or of the ones chosen.
// round is for timesteps that are rounded first.
func (l *levels) respace(spacing string, table []float32, n int, all, round bool) []float64 {
	hi, lo := float64(table[len(table)-1]), float64(table[0])
	if !all {
		hi, lo = between(table, l.at[0]), between(table, l.at[n-1])
	}
	out := spacedLevels(spacing, hi, lo, n)
	logs := logarithms(table)
	l.at = make([]float64, n)
	for i, v := range out {
		t := timestepOf(logs, v)
		if round {
			t = math.RoundToEven(t)
		}
		if all {
			t = math.Trunc(t)
		}
		l.at[i] = float64(float32(t))
	}
	return out
}

// logarithms of a table of levels, in float32.
func logarithms(table []float32) []float32 {
	logs := make([]float32, len(table))
	for t, v := range table {
		logs[t] = float32(math.Log(float64(v)))
	}
	return logs
}

// timestepOf is the timestep with the level sigma, interpolated in log σ.
func timestepOf(logs []float32, sigma float64) float64 {
	v := math.Log(max(sigma, 1e-10))
	j, _ := slices.BinarySearchFunc(logs, v, func(l float32, v float64) int {
		if float64(l) <= v {
			return -1
		}
		return 1
	})
	j = min(max(j-1, 0), len(logs)-2)
	lo, hi := float64(logs[j]), float64(logs[j+1])
	w := min(max((lo-v)/(lo-hi), 0), 1)
	return float64((1-w)*float64(j)) + float64(w*float64(j+1))
}

// Timesteps implements Schedule.
func (l *levels) Timesteps() []float64 { return l.at[l.begin:] }

// Notices implements Schedule.
func (l *levels) Notices() []string { return nil }

// scaledSigma is the deviation of the noise to start from in methods whose latents are x0 + σ·noise.
func (l *levels) scaledSigma() float64 {
	top := slices.Max(l.sigmas)
	if l.Spacing == "leading" {
		return float64(root(float32(top*top) + 1))
	}
	return float64(top)
}

// scaledInput is x/√(σ²+1), what the network was trained to see of x0 + σ·noise.
func scaledInput(s *torch.Scope, x *torch.Tensor, sigma float32) *torch.Tensor {
	return x.DivScalar(s, float64(root(float32(sigma*sigma)+1)))
}

// scaledNoise returns x0 + σ·z, with σ rounded to the latents' type.
func scaledNoise(s *torch.Scope, x0, z *torch.Tensor, sigma float32) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		v := torch.Full(s, float64(sigma), torch.Float32, 1).To(s, x0.DType())
		return x0.Add(s, z.Mul(s, v))
	})
}

// clean predicts the clean latents of x0 + σ·noise.
func (c *chain) clean(s *torch.Scope, x, out *torch.Tensor, sigma float32) *torch.Tensor {
	switch c.Predicts {
	case noise.Sample:
		return out
	case noise.Velocity:
		d := float32(sigma*sigma) + 1
		return out.MulScalar(s, float64(-sigma/root(d))).Add(s, x.DivScalar(s, float64(d)))
	}
	return x.Sub(s, out.MulScalar(s, float64(sigma)))
}
