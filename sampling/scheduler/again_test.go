package scheduler

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// A run that is taken up again while another pass is under way gives what one that was just started gives, and disturbs the other as little.
func TestAgain(t *testing.T) {
	for name, m := range methods {
		for _, prk := range []bool{false, true} {
			c := noise.Config{SkipPRK: !prk}
			if prk && name != "pndm" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					// pass returns the latents after each step, in parts: it stops after some steps, and goes on when it is called again.
					pass := func(run Schedule) func(steps int) []float32 {
						g := torch.NewGenerator(s, 3)
						draw := func(s *torch.Scope) *torch.Tensor { return torch.Randn(s, g, torch.Float32, 1, 2, 3, 3) }
						x, i := draw(s).MulScalar(s, run.InitSigma()), 0
						var all []float32
						return func(steps int) []float32 {
							for ; i < len(run.Timesteps()) && steps > 0; steps-- {
								x, _ = run.Step(s, i, x, run.Input(s, x, i).Sin(s), draw)
								all = append(all, torch.ToSlice[float32](x)...)
								i++
							}
							return all
						}
					}
					start := func() Schedule {
						run, err := m.Start(c, Options{Steps: 6})
						require.NoError(t, err)
						return run
					}
					const all = 100
					want := pass(start())(all)
					run := start()
					first := pass(run)
					first(3)
					again := run.Again()
					require.Equal(t, run.Timesteps(), again.Timesteps())
					require.Equal(t, want, pass(again)(all))
					require.Equal(t, want, first(all))
					require.Equal(t, want, pass(again.Again())(all))
					return nil
				}))
			})
		}
	}
}
