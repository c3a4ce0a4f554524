package models

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// Angles, levels, points and directions against their formulas, and the direction against a difference of points.
func TestTrigCoordinates(t *testing.T) {
	const sd = 0.7
	k := Trig{SigmaData: sd}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		sigma := torch.FromSlice(s, []float64{0, 0.002, sd, 80, 1e12})
		a := k.Angle(s, sigma)
		require.InDeltaSlice(t, []float64{0, math.Atan(0.002 / sd), math.Pi / 4, math.Atan(80 / sd), math.Pi / 2}, torch.ToSlice[float64](a), 1e-12)
		back := torch.ToSlice[float64](k.Level(s, a))
		for i, want := range []float64{0, 0.002, sd, 80} {
			require.InDelta(t, want, back[i], 1e-11)
		}
		require.InEpsilon(t, 1e12, back[4], 1e-3)
		require.InDelta(t, math.Pi/4, Trig{}.Angle(s, torch.FromSlice(s, []float64{0.5})).Item(), 1e-15)
		// The float32 nearest to π/2 is above it; its level is large, not negative.
		top := k.Level(s, torch.FromSlice(s, []float32{math.Pi / 2})).Item()
		require.Greater(t, top, 1e6)
		require.False(t, math.IsInf(top, 0))

		g := torch.NewGenerator(s, 1)
		x, z := torch.Randn(s, g, torch.Float64, 5, 3), torch.Randn(s, g, torch.Float64, 5, 3)
		requireClose(t, x.Add(s, z.MulPerSample(s, sigma)).MulPerSample(s, a.Cos(s)), k.Noisy(s, x, z, a), 1e-3) // at 1e12 few digits are left
		requireClose(t, x.Add(s, z.MulPerSample(s, sigma)).MulPerSample(s, a.Cos(s)).Narrow(s, 0, 0, 4), k.Noisy(s, x, z, a).Narrow(s, 0, 0, 4), 1e-13)
		const h = 1e-5
		difference := k.Noisy(s, x, z, a.AddScalar(s, h)).Sub(s, k.Noisy(s, x, z, a.SubScalar(s, h))).DivScalar(s, 2*h)
		requireClose(t, difference, k.Direction(s, x, z, a), 1e-9)
		return nil
	}))
}

// In TrigFlow's own coordinates and in σ the function is the same, at the angle 0 it is y in every bit, and the velocity of a
// denoiser is the network's.
func TestTrigFlowInItsOwnCoordinates(t *testing.T) {
	const n, sd = 4, 0.7
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		f := &TrigConsistency{Net: tangle{n}, SigmaData: sd}
		d := &TrigFlow{Net: tangle{n}, SigmaData: sd}
		k := f.Coordinates()
		require.Equal(t, k, d.Coordinates())
		sigma := torch.FromSlice(s, levels)
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, len(levels), n)
		a := k.Angle(s, sigma)
		y := x.MulPerSample(s, a.Cos(s))
		requireClose(t, f.Origin(s, x, sigma, Cond{}), f.OriginAt(s, y, a, Cond{}), 1e-13)
		requireClose(t, f.Origin(s, x, sigma, Cond{}), d.Denoise(s, x, sigma, Cond{}), 0)

		F := f.Forward(s, y, a, Cond{})
		requireClose(t, tangle{n}.Forward(s, y.DivScalar(s, sd), a, Cond{}), F, 0)
		velocity := d.Velocity(s, y, a, Cond{})
		requireClose(t, F.MulScalar(s, sd), velocity, 1e-15)
		requireClose(t, velocity, k.Velocity(s, d, y, a, Cond{}), 0)
		// The same denoiser as another type has to be asked for D. At 0.002 a difference is divided by 0.003.
		requireClose(t, velocity, k.Velocity(s, &EDM{Net: &Preconditioned{Model: d}}, y, a, Cond{}), 1e-12)
		requireClose(t, velocity, Trig{SigmaData: sd}.Velocity(s, &TrigFlow{Net: &TrigNetwork{Model: d}}, y, a, Cond{}), 1e-12)

		zero := torch.Zeros(s, torch.Float64, len(levels))
		require.Equal(t, y.Bytes(), f.OriginAt(s, y, zero, Cond{}).Bytes())
		require.Equal(t, y.Bytes(), f.Origin(s, y, zero, Cond{}).Bytes())
		return nil
	}))
}
