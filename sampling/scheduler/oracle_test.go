package scheduler

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// A network that knows the clean latents leads every method to them, whatever it predicts, and the previews show them in each
// step. This needs no diffusers: it is what the methods' papers promise. Karras's levels are left out, because their timesteps are
// rounded; and numbers of steps that do not divide 1000, for which DDIM ends at the chain's first level, as diffusers' does.
func TestOracle(t *testing.T) {
	for name, m := range methods {
		for _, predicts := range []noise.Prediction{noise.Epsilon, noise.Velocity, noise.Sample} {
			for _, spacing := range []string{"leading", "trailing", "linspace"} {
				for _, strength := range []float64{1, 0.6} {
					if strings.HasSuffix(name, "_karras") || name == "pndm" { // which goes on as diffusers does, from timestep to timestep less a fixed number
						continue
					}
					t.Run(fmt.Sprintf("%s/%s/%s/%g", name, predicts.Diffusers(), spacing, strength), func(t *testing.T) {
						no := false
						c := noise.Config{BetaStart: 0.00085, BetaEnd: 0.012, BetaSchedule: "scaled_linear", Predicts: predicts, Spacing: spacing}
						c.Clip = &no
						oracle(t, m, c, Options{Steps: 5, Strength: strength}, name == "tcd" || name == "deis")
					})
				}
			}
		}
	}
}

// oracle runs m with a network that knows the clean latents. noisy says that the method ends at the chain's first level, with
// noise.
func oracle(t *testing.T, m Method, c noise.Config, o Options, noisy bool) {
	t.Helper()
	run, err := m.Start(c, o)
	require.NoError(t, err)
	ch, err := newChain(c, latentClass)
	require.NoError(t, err)
	table := ch.sigmaTable()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 7)
		draw := func(s *torch.Scope) *torch.Tensor { return torch.Randn(s, g, torch.Float64, 2, 4, 3, 3) }
		x0 := draw(s)
		x := run.AddNoise(s, x0, draw(s), 0)
		for i, at := range run.Timesteps() {
			in := run.Input(s, x, i)
			v := between(table, at)
			alpha, sigma := 1/math.Sqrt(v*v+1), v/math.Sqrt(v*v+1)
			eps := in.Sub(s, x0.MulScalar(s, alpha)).DivScalar(s, sigma)
			out := eps
			switch c.Predicts {
			case noise.Sample:
				out = x0
			case noise.Velocity:
				out = eps.MulScalar(s, alpha).Sub(s, x0.MulScalar(s, sigma))
			}
			var clean *torch.Tensor
			x, clean = run.Step(s, i, x, out, draw)
			assert.Less(t, clean.Sub(s, x0).Abs(s).Max(s).Item(), 1e-4, "step %d", i) // levels are float32
		}
		if noisy {
			x = x.Sub(s, x0.MulScalar(s, math.Sqrt(float64(ch.alphas[0]))))
			assert.Less(t, x.Abs(s).Max(s).Item(), 0.15) // √(1-ᾱ_0) is 0.03
			return nil
		}
		assert.Less(t, x.Sub(s, x0).Abs(s).Max(s).Item(), 1e-4)
		return nil
	}))
}

// Methods draw noise as often as their documentation says: whoever shares a generator relies on it.
func TestDraws(t *testing.T) {
	const n = 5
	for name, c := range map[string]struct {
		m    Method
		want int
	}{
		"lcm": {LCM{}, n - 1}, "tcd": {TCD{Eta: 0.3}, n - 1}, "tcd without": {TCD{}, 0}, "ddim": {DDIM{Eta: 1}, n}, "ddim without": {DDIM{}, 0},
		"euler": {Euler{}, 0}, "euler_a": {EulerAncestral{}, n}, "heun": {Heun{}, 0}, "dpmpp_2m": {DPMPP2M{}, 0}, "unipc": {UniPC{}, 0},
		"pndm": {PNDM{}, 0}, "ddpm": {DDPM{}, n - 1}, "lms": {LMS{}, 0}, "deis": {DEIS{}, 0}, "dpm2": {DPM2{}, 0}, "dpm2_a": {DPM2Ancestral{}, n - 1},
		"dpmpp_2s_a": {DPMPP2SAncestral{}, n - 1}, "dpmpp_sde": {DPMPPSDE{}, 2 * (n - 1)}, "dpmpp_2m_sde": {DPMPP2MSDE{}, n}, "dpmpp_3m_sde": {DPMPP3MSDE{}, n},
		"dpmpp_3m": {DPMPP3M{}, 0}, "unipc_bh1": {UniPC{B1: true}, 0}, "dpmpp_2m_sde_heun": {DPMPP2MSDE{Heun: true}, n},
	} {
		run, err := c.m.Start(noise.Config{}, Options{Steps: n})
		require.NoError(t, err)
		drawn := 0
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Ones(s, torch.Float32, 1, 4, 2, 2)
			for i := range run.Timesteps() {
				before := torch.ToSlice[float32](x)
				y, _ := run.Step(s, i, x, x, func(s *torch.Scope) *torch.Tensor {
					drawn++
					return torch.Ones(s, torch.Float32, 1, 4, 2, 2)
				})
				assert.Equal(t, before, torch.ToSlice[float32](x), "%s: step %d changed its input", name, i)
				x = y
			}
			return nil
		}))
		assert.Equal(t, c.want, drawn, name)
	}
}

// Where diffusers' own arithmetic breaks down, ours does not: UniPC of the form bh1, and DDIM at η = 1 from pure noise takes a root of what rounding may have
// made negative, and numpy.arange gives some trailing timesteps a -1 more.
func TestSturdierThanDiffusers(t *testing.T) {
	for n := 1; n <= 130; n++ {
		run, err := DDIM{Eta: 1}.Start(noise.Config{ZeroSNR: true, Predicts: noise.Velocity, Spacing: "trailing"}, Options{Steps: n})
		require.NoError(t, err)
		require.Len(t, run.Timesteps(), n)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Ones(s, torch.Float32, 1, 1, 1, 2)
			for i := range min(n, 2) {
				y, _ := run.Step(s, i, x, x, func(*torch.Scope) *torch.Tensor { return x })
				require.False(t, math.IsNaN(y.Sum(s).Item()), "%d steps", n)
			}
			return nil
		}))
	}
	run, err := Euler{}.Start(noise.Config{Spacing: "trailing"}, Options{Steps: 61})
	require.NoError(t, err)
	require.Len(t, run.Timesteps(), 61)

	// UniPC's last step to a level of 0 is of the first order, in which B(h) has no part; with bh1 diffusers multiplies an infinite one by 0.
	for _, m := range []UniPC{{}, {B1: true}} {
		run, err := m.Start(noise.Config{}, Options{Steps: 1})
		require.NoError(t, err)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Ones(s, torch.Float32, 1, 1, 1, 2)
			y, clean := run.Step(s, 0, x, x, nil)
			require.Equal(t, torch.ToSlice[float32](clean), torch.ToSlice[float32](y))
			return nil
		}))
	}
}
