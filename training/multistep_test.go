package training

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
)

// Losses and gradients are those of PyTorch in the paper's variance-preserving coordinates, from data, with aDDIM and with DDIM.
func TestMultistepLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "multistep")
		net := r.net(t, "model", false)
		for name, m := range map[string]*MultistepCM{"train": {}, "distil": {Teacher: gaussian}, "ddim": {Teacher: gaussian, DDIM: true}} {
			m.Model = &models.EDM{Net: net}
			r.require(t, s, name, m.LossAt(s, r.batch(), r.numbers("t"), r.numbers("next"), r.numbers("end"), r["z"], 1), net)
		}
		return nil
	}))
}

// With one level per segment, training from data is a denoiser's: the target is the clean sample. The last level has no point below, and
// its target is the teacher's prediction.
func TestMultistepIsADenoiser(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "multistep")
		m := &MultistepCM{Model: &models.EDM{Net: r.net(t, "model", false)}}
		high, low := []float64{80, 5, 1.2, 0.01}, []float64{60, 4, 0.9, 0}
		at := torch.FromSlice(s, high)
		got := m.Model.Denoise(s, noisy(s, r["x"], r["z"], at), at, models.Cond{})
		want := Norm{}.Distance(s, got, r["x"]).Mul(s, at.PowScalar(s, -2).AddScalar(s, 1).Sqrt(s)).Mean(s).Item()
		require.InEpsilon(t, want, m.LossAt(s, r.batch(), high, low, low, r["z"], 1).Item(), 1e-9)
		return nil
	}))
}

// The student of the exact denoiser by DDIM has no loss where it is the result of DDIM's steps to the segment's end, as a prediction.
func TestMultistepOptimum(t *testing.T) {
	const segments, per = 2, 4
	m := &MultistepCM{Teacher: gaussian, DDIM: true, Segments: segments}
	levels := m.levels(segments * per)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		m.Model = &byEuler{levels: levels, per: per}
		b := Batch{X: gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, 8, 2)}
		z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, 8, 2)
		end := make([]float64, 8)
		for i := range end {
			end[i] = levels[(i/per+1)*per]
		}
		require.Less(t, m.LossAt(s, b, levels[:8], levels[1:], end, z, 1).Item(), 1e-4, "the norm's ε has a root")
		m.Teacher = wrongDenoiser{}
		require.Greater(t, m.LossAt(s, b, levels[:8], levels[1:], end, z, 1).Item(), 0.1)
		return nil
	}))
}

// wrongDenoiser is off by a tenth.
type wrongDenoiser struct{}

func (wrongDenoiser) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return gaussian.Denoise(s, x, t, c).AddScalar(s, 0.1)
}

// byEuler predicts where Euler's steps with the exact denoiser end.
type byEuler struct {
	gaussianFlow // for its parameters, none
	levels       []float64
	per          int
}

func (m *byEuler) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	var rows []*torch.Tensor
	for i, level := range torch.ToSlice[float64](t) {
		j := 0
		for m.levels[j] > level*(1+1e-9) {
			j++
		}
		one := x.Narrow(s, 0, i, 1)
		y, last := one, min((j/m.per+1)*m.per, len(m.levels)-1)
		for k := j; k < last; k++ {
			at := func(v float64) *torch.Tensor { return torch.Full(s, v, torch.Float64, 1) }
			y = solver.Euler{}.Step(s, gaussian, y, at(m.levels[k]), at(m.levels[k+1]), c)
		}
		ratio := m.levels[last] / level
		rows = append(rows, y.Sub(s, one.MulScalar(s, ratio)).DivScalar(s, 1-ratio))
	}
	return torch.Cat(s, rows, 0)
}

// aDDIM keeps the variance of the noisy data, which DDIM's steps lose.
func TestMultistepADDIMKeepsVariance(t *testing.T) {
	const n, high, low = 4000, 20.0, 1.0
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := gaussian.Sample(s, torch.NewGenerator(s, 1), torch.Float64, n, 2)
		at := torch.Full(s, high, torch.Float64, n)
		noisyX := noisy(s, x, torch.Randn(s, torch.NewGenerator(s, 2), torch.Float64, n, 2), at)
		D := gaussian.Denoise(s, noisyX, at, models.Cond{})
		slope := noisyX.Sub(s, D).DivScalar(s, high)
		m := &MultistepCM{Teacher: gaussian}
		of := func(s *torch.Scope, f func(t, u, e float64) float64) *torch.Tensor {
			return torch.Full(s, f(high, low, 0), torch.Float64, n)
		}
		energy := func(more *torch.Tensor) float64 {
			y := D.Add(s, slope.MulPerSample(s, more.AddScalar(s, low)))
			return y.Square(s).Mean(s).Item()
		}
		want := low*low + gaussian.Std*gaussian.Std + gaussian.Mean*gaussian.Mean
		adjusted := energy(m.widened(s, x, D, slope, of))
		m.DDIM = true
		plain := energy(m.widened(s, x, D, slope, of))
		t.Logf("mean square %.4f, DDIM %.4f, aDDIM %.4f", want, plain, adjusted)
		require.Less(t, math.Abs(adjusted-want), math.Abs(plain-want)/2)
		return nil
	}))
}

func TestMultistepSchedule(t *testing.T) {
	m := &MultistepCM{Segments: 4, First: 64, Last: 1280, Steps: 1000}
	require.Equal(t, 16, m.PerSegment(0))
	require.Equal(t, 320, m.PerSegment(500))
	require.Equal(t, 320, m.PerSegment(999))
	require.InEpsilon(t, 16*math.Sqrt(20), m.PerSegment(250), 0.01)
	ends, all := m.Levels(0), m.levels(4*16)
	for i, e := range ends {
		require.InDelta(t, e, all[16*i], 1e-9*e)
	}
	require.Zero(t, ends[4])
	require.InEpsilon(t, noise.Karras(5, 0.002, 80, 7)[3], ends[1], 1e-12)
}

func TestMultistepRefuses(t *testing.T) {
	at := &models.EDM{}
	for want, m := range map[string]*MultistepCM{
		"no model":        {},
		"at least 1 step": {Model: at},
		"1024 segments":   {Model: at, Steps: 1, Segments: -1},
		"one level":       {Model: at, Steps: 1, Segments: 100},
		"smallest level":  {Model: at, Steps: 1, Rho: -1},
	} {
		require.ErrorContains(t, m.Validate(), want)
	}
}
