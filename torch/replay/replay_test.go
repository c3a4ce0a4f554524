package replay_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/replay"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// counted are graphs that count how often they record, on every device.
func counted(recorded *int) *replay.Graphs {
	return &replay.Graphs{Record: func(s *torch.Scope, f func(*torch.Scope) []*torch.Tensor) (*torch.Graph, error) {
		*recorded++
		if s.Device().IsCUDA() {
			return torch.Record(s, f)
		}
		return torch.Rehearse(s, f)
	}}
}

func square(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y := in[0].Mul(s, in[0])
		if in[1] != nil {
			y = y.Add(s, in[1])
		}
		return y
	})
}

// Every call has the function's result, before and after it is recorded, and results stay what they are.
func TestCalls(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		var recorded int
		g := counted(&recorded)
		defer g.Close()
		require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				var kept []*torch.Tensor
				for i := range 6 {
					kept = append(kept, g.Call(s, nil, square, torch.Full(s, float64(i), torch.Float32, 2), nil))
				}
				require.Equal(t, 1, recorded)
				for i, y := range kept {
					require.Equal(t, []float32{float32(i * i), float32(i * i)}, torch.ToSlice[float32](y))
				}
				// Other shapes, types, keys and inputs are other kinds.
				one := torch.Ones(s, torch.Float32, 2)
				for n, f := range []func() *torch.Tensor{
					func() *torch.Tensor { return g.Call(s, nil, square, one, one) },
					func() *torch.Tensor { return g.Call(s, nil, square, torch.Ones(s, torch.Float32, 3), nil) },
					func() *torch.Tensor { return g.Call(s, nil, square, torch.Ones(s, torch.Float64, 2), nil) },
					func() *torch.Tensor { return g.Call(s, "other", square, one, nil) },
				} {
					for range 4 {
						want := 1.0
						if n == 0 {
							want = 2
						}
						require.Equal(t, want, f().Select(s, 0, 0).Item())
					}
					require.Equal(t, n+2, recorded)
				}
				return nil
			})
		}))
	})
}

// The kind that was not used for longest makes room for another.
func TestMost(t *testing.T) {
	var recorded int
	g := counted(&recorded)
	g.Most = 2
	defer g.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			call := func(n, times int) {
				for range times {
					require.Equal(t, float64(n), g.Call(s, nil, square, torch.Ones(s, torch.Float32, n), nil).Sum(s).Item())
				}
			}
			call(1, 3)
			call(2, 3)
			call(1, 1)
			call(3, 3) // frees the graph of 2
			require.Equal(t, 3, recorded)
			call(1, 3)
			require.Equal(t, 3, recorded)
			call(2, 3)
			require.Equal(t, 4, recorded)
			return nil
		})
	}))
}

// A function that cannot be recorded runs as ever, and somebody is told once.
func TestFailed(t *testing.T) {
	var told []error
	g := &replay.Graphs{Record: torch.Rehearse, Failed: func(err error) { told = append(told, err) }}
	defer g.Close()
	reads := func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return in[0].MulScalar(s, in[0].Sum(s).Item()) }
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for range 5 {
				require.Equal(t, 4.0, g.Call(s, nil, reads, torch.Ones(s, torch.Float32, 2)).Sum(s).Item())
			}
			return nil
		})
	}))
	require.Len(t, told, 1)
	require.ErrorContains(t, told[0], "while a graph is recorded")
	var e *torch.Error
	require.True(t, errors.As(told[0], &e))
}

// Gradients are not replayed, and without Record a CPU has no graphs.
func TestAsEver(t *testing.T) {
	var recorded int
	g := counted(&recorded)
	var plain replay.Graphs
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for range 5 {
			x := torch.Ones(s, torch.Float32, 2)
			x.SetRequiresGrad(true)
			g.Call(s, nil, square, x, nil).Sum(s).Backward()
			require.Equal(t, []float32{2, 2}, torch.ToSlice[float32](x.Grad(s)))
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				require.Equal(t, 2.0, plain.Call(s, nil, square, x, nil).Sum(s).Item())
				return nil
			}))
		}
		return nil
	}))
	require.Zero(t, recorded)
}
