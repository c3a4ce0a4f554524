package scheduler

import (
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// levels are timesteps with their noise levels σ = √((1-ᾱ)/ᾱ), for Euler, Heun, DPM-Solver++ and UniPC. They keep all steps, of which the
// first begin are skipped, because multistep methods depend on the number of remaining steps.
type levels struct {
	*chain
	at     []float64
	sigmas []float32 // one more than timesteps: the last is the end of the last step
	begin  int
}

// sigmaTable returns the noise level of each timestep. For zero terminal SNR, the largest level is the finite one of diffusers.
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

// newLevels selects timesteps and noise levels. ends is for DPM-Solver++ and UniPC, whose integer timesteps are spaced for one more step,
// the end of the last one.
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
		return levels{}, refuse("Timesteps", "custom timesteps cannot be combined with %s noise levels: want only one of them", quote.Text(spacing))
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

// withEnd is spaced for n steps and the end of the last one.
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

// respace returns n levels in that spacing, and sets the timesteps to those of the levels. The range is that of all timesteps if all is set
// (DPM-Solver++, UniPC and DEIS, which also truncate the timesteps to integers), else that of the selected ones. round rounds the
// timesteps.
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

// logarithms returns the logarithms of a table of levels, in float32.
func logarithms(table []float32) []float32 {
	logs := make([]float32, len(table))
	for t, v := range table {
		logs[t] = float32(math.Log(float64(v)))
	}
	return logs
}

// timestepOf returns the timestep of level sigma, interpolated in log σ.
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

// scaledSigma returns the standard deviation of the initial noise for methods with latents x0 + σ·noise.
func (l *levels) scaledSigma() float64 {
	top := slices.Max(l.sigmas)
	if l.Spacing == "leading" {
		return float64(root(float32(top*top) + 1))
	}
	return float64(top)
}

// scaledInput returns x/√(σ²+1), the network's input for latents x0 + σ·noise.
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

// clean returns the predicted clean latents for latents x0 + σ·noise.
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
