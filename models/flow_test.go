package models

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Against diffusers' flow-matching scheduler: its σ is the time τ here, its timesteps are the labels of networks in its format,
// scale_noise the interpolation, and a step of Euler's rule to 0 ends at the denoiser's prediction.
func TestFlowAgainstDiffusers(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/parameterisations.safetensors")
		y := golden["y"]
		for _, shift := range []string{"flow.1.", "flow.3."} {
			// τ = 1, where it starts, is an infinite level; the largest number below stands for it.
			tau := golden[shift+"sigmas"].Narrow(s, 0, 0, y.Dim(0)).Clamp(s, 0, 1-1e-16)
			torchtest.Close(t, "noisy", Interpolate(s, golden["x"], golden["z"], tau), golden[shift+"noisy"], 1e-14, 1e-14)
			levels := FlowLevel(s, tau)
			torchtest.Close(t, "time", FlowTime(s, levels), tau, 1e-15, 0)
			net := &told{answer: golden["net"]}
			f := &Flow{Net: net, Scale: 1000}
			x := y.MulPerSample(s, levels.AddScalar(s, 1))
			torchtest.Close(t, shift, f.Denoise(s, x, levels, Cond{}), golden[shift+"x0"], 1e-12, 1e-12)
			require.InDeltaSlice(t, torch.ToSlice[float64](golden[shift+"timesteps"]), net.noise, 1e-9)
			require.InDeltaSlice(t, torch.ToSlice[float64](y), net.x, 1e-12)
			torchtest.Close(t, "velocity", f.Velocity(s, y, tau, Cond{}), golden["net"], 0, 0)
			require.InDeltaSlice(t, torch.ToSlice[float64](golden[shift+"timesteps"]), net.noise, 1e-12)
		}
		return nil
	}))
}

// A network that knows z - x_0 makes the exact denoiser; one whose time runs the other way knows x_0 - z.
func TestFlowTargets(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, z := torch.Randn(s, g, torch.Float64, 4, 2, 3), torch.Randn(s, g, torch.Float64, 4, 2, 3)
		sigma := torch.FromSlice(s, []float64{0, 0.002, 1, 80})
		tau := FlowTime(s, sigma)
		y := Interpolate(s, x, z, tau)
		noisy := x.Add(s, z.MulPerSample(s, sigma))
		requireClose(t, noisy.MulPerSample(s, sigma.AddScalar(s, 1).Reciprocal(s)), y, 1e-14)
		velocity := z.Sub(s, x)
		forth, back := &Flow{Net: &told{answer: velocity}}, &Flow{Net: &told{answer: velocity.Neg(s)}, Reversed: true, Scale: 2}
		for _, f := range []*Flow{forth, back} {
			requireClose(t, x, f.Denoise(s, noisy, sigma, Cond{}), 1e-13)
			requireClose(t, velocity, f.Velocity(s, y, tau, Cond{}), 0)
		}
		require.InDeltaSlice(t, []float64{2, 2 / 1.002, 1, 2 / 81.0}, back.Net.(*told).noise, 1e-15)
		require.Equal(t, torch.Float32, Interpolate(s, x.To(s, torch.Float32), z.To(s, torch.Float32), tau).DType())
		return nil
	}))
}
