package models

import (
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// jumps is a network of two times that knows where the trajectories of N(0, 0.3²) go: in the form that Trajectory wants, or as an
// average velocity for a MeanFlow.
type jumps struct{ flow *MeanFlow }

const jumpsStd = 0.3

// moved is what a trajectory's point is multiplied by from level t to level u.
func moved(t, u float64) float64 { return math.Hypot(jumpsStd, u) / math.Hypot(jumpsStd, t) }

func (k jumps) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	from, until := torch.ToSlice[float64](noise.To(s, torch.Float64)), torch.ToSlice[float64](c.Until.To(s, torch.Float64))
	factors := make([]float64, len(from))
	for i := range from {
		if k.flow != nil {
			factors[i] = k.average(from[i], until[i])
			continue
		}
		t, u := math.Exp(from[i]*4), math.Exp(until[i]*4)
		inner := (moved(t, u) - u/t) / (1 - u/t)
		if math.Abs(1-u/t) < 1e-9 {
			inner = jumpsStd * jumpsStd / (jumpsStd*jumpsStd + t*t) // the limit, the denoiser
		}
		v := t*t + 0.25
		factors[i] = (inner - 0.25/v) / (0.5 * t / math.Sqrt(v)) * math.Sqrt(v)
	}
	return x.MulPerSample(s, torch.FromSlice(s, factors))
}

func (k jumps) average(tau, r float64) float64 {
	tau, r = tau/k.flow.Scale, r/k.flow.Scale
	if k.flow.Interval {
		r = tau - r
	}
	t, u := tau/(1-tau), r/(1-r)
	if math.Abs(tau-r) < 1e-12 {
		v := jumpsStd*jumpsStd + t*t // the limit, (y - D)/τ
		return (1 - (1+t)*jumpsStd*jumpsStd/v) / tau
	}
	return (1 - moved(t, u)*(1+t)/(1+u)) / (tau - r)
}

func (jumps) Parameters() iter.Seq2[string, *torch.Tensor] { return tangle{}.Parameters() }

// jumper is what both models of trajectories are.
type jumper interface {
	Denoiser
	ConsistencyFunction
	Jump(s *torch.Scope, x, t, next *torch.Tensor, c Cond) *torch.Tensor
}

// With a network that is exact, jumps go where the trajectories of Gaussian data go, down and up, their end is the consistency
// function's, and the limit of short jumps is the denoiser.
func TestJumps(t *testing.T) {
	flow, interval := &MeanFlow{Scale: 1000}, &MeanFlow{Scale: 2, Interval: true}
	flow.Net, interval.Net = jumps{flow: flow}, jumps{flow: interval}
	for _, c := range []struct {
		name string
		f    jumper
		end  float64
	}{
		{"trajectory", &Trajectory{Net: jumps{}}, 0.002},
		{"trajectory, another ε", &Trajectory{Net: jumps{}, SigmaMin: 0.01}, 0.01},
		{"mean flow", flow, 0},
		{"mean flow, interval", interval, 0},
	} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			from, to := []float64{80, 80, 5, 0.3, 0.02, 0.4}, []float64{0.05, 20, 0.5, 2, 0.01, 0.4}
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, len(from), 3)
			at, next := torch.FromSlice(s, from), torch.FromSlice(s, to)
			jump, end, denoised := make([]float64, len(from)), make([]float64, len(from)), make([]float64, len(from))
			for i, t := range from {
				jump[i], end[i] = moved(t, to[i]), moved(t, c.end)
				denoised[i] = jumpsStd * jumpsStd / (jumpsStd*jumpsStd + t*t)
			}
			requireClose(t, x.MulPerSample(s, torch.FromSlice(s, jump)), c.f.Jump(s, x, at, next, Cond{}), 1e-11, c.name)
			requireClose(t, x.MulPerSample(s, torch.FromSlice(s, end)), c.f.Origin(s, x, at, Cond{}), 1e-11, c.name)
			requireClose(t, x.MulPerSample(s, torch.FromSlice(s, denoised)), c.f.Denoise(s, x, at, Cond{}), 1e-11, c.name)
			return nil
		}))
	}
}

// A jump to where it starts is x in every bit, whatever the network says and the types are, even at level 0; and so is the origin
// of a trajectory's end.
func TestJumpsStay(t *testing.T) {
	for _, c := range []struct {
		f   jumper
		end float64
	}{
		{&Trajectory{Net: linear{3}}, 0.002},
		{&Trajectory{Net: linear{3}, SigmaData: 0.7, SigmaMin: 0.03, Noise: ScaledLog}, 0.03},
		{&MeanFlow{Net: linear{3}}, 0},
		{&MeanFlow{Net: linear{3}, Interval: true, Scale: 1000}, 0},
	} {
		for _, image := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
			for _, level := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					all := torch.FromSlice(s, []float64{0, 0.002, 0.3, 80}).To(s, level)
					x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, all.Dim(0), 3).To(s, image)
					require.Equal(t, x.Bytes(), c.f.Jump(s, x, all, all, Cond{}).Bytes(), "%+v, %v image, %v levels", c.f, image, level)
					end := torch.Full(s, c.end, level, all.Dim(0))
					require.Equal(t, x.Bytes(), c.f.Origin(s, x, end, Cond{}).Bytes(), "%+v, %v image, %v levels", c.f, image, level)
					return nil
				}))
			}
		}
	}
}

// Networks are told both times in their form, and everything else that the caller gave.
func TestNetworksOfTwoTimesAreTold(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float64, 2, 1)
		from, to := torch.FromSlice(s, []float64{80, 1}), torch.FromSlice(s, []float64{1, 0.5})
		class := torch.FromSlice(s, []int64{3, 1})
		ln := func(k, t float64) float64 { return k * math.Log(t) }
		for _, c := range []struct {
			f           func(net Network) jumper
			noise, upto []float64
		}{
			{func(net Network) jumper { return &Trajectory{Net: net} }, []float64{ln(0.25, 80), 0}, []float64{0, ln(0.25, 0.5)}},
			{func(net Network) jumper { return &Trajectory{Net: net, Noise: ScaledLog} }, []float64{ln(250, 80), 0}, []float64{0, ln(250, 0.5)}},
			{func(net Network) jumper { return &MeanFlow{Net: net} }, []float64{80.0 / 81, 0.5}, []float64{0.5, 1.0 / 3}},
			{func(net Network) jumper { return &MeanFlow{Net: net, Scale: 6, Interval: true} }, []float64{480.0 / 81, 3}, []float64{6 * (80.0/81 - 0.5), 1}},
		} {
			w := &keeper{}
			c.f(w).Jump(s, x, from, to, Cond{Class: class})
			require.InDeltaSlice(t, c.noise, w.noise, 1e-12)
			require.InDeltaSlice(t, c.upto, w.until, 1e-12)
			require.Equal(t, []int64{3, 1}, w.class)
		}
		// The same network, in the flow's own coordinates.
		w := &keeper{}
		f := &MeanFlow{Net: w, Scale: 6, Interval: true}
		f.AverageVelocity(s, x, torch.FromSlice(s, []float64{0.5, 0.25}), torch.FromSlice(s, []float64{0.75, 0.25}), Cond{})
		require.InDeltaSlice(t, []float64{4.5, 1.5}, w.noise, 1e-14)
		require.InDeltaSlice(t, []float64{1.5, 0}, w.until, 1e-14)
		return nil
	}))
}

// keeper keeps both times and the classes that a network was told.
type keeper struct {
	constant
	noise, until []float64
	class        []int64
}

func (w *keeper) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	w.noise, w.until = torch.ToSlice[float64](noise), torch.ToSlice[float64](c.Until)
	if c.Class != nil {
		w.class = torch.ToSlice[int64](c.Class)
	}
	return x.MulScalar(s, 2)
}
