package models

import (
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

type named struct {
	name string
	t    *torch.Tensor
}

func pairs(list ...named) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for _, n := range list {
			if !yield(n.name, n.t) {
				return
			}
		}
	}
}

// After n steps towards a constant, the distance has shrunk by decayⁿ; the networks' own tensors move, nothing else.
func TestEMAFollows(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		into := torch.FromSlice(s, []float64{1, -2, 8})
		from := torch.FromSlice(s, []float64{0, 2, 8})
		from.SetRequiresGrad(true)
		e, err := NewEMA(pairs(named{"w", into}), pairs(named{"w", from}))
		require.NoError(t, err)
		live := torch.Live()
		for range 10 {
			e.Update(s, 0.9)
		}
		require.Equal(t, live, torch.Live())
		left := math.Pow(0.9, 10)
		require.InDeltaSlice(t, []float64{left, 2 - 4*left, 8}, torch.ToSlice[float64](into), 1e-14)
		require.Equal(t, []float64{0, 2, 8}, torch.ToSlice[float64](from))
		require.False(t, into.RequiresGrad())

		before := torch.ToSlice[float64](into)
		e.Update(s, 1)
		require.Equal(t, before, torch.ToSlice[float64](into))
		e.Update(s, 0)
		require.Equal(t, []float64{0, 2, 8}, torch.ToSlice[float64](into))
		return nil
	}))
}

func TestEMARefusesAnotherNetwork(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := torch.Zeros(s, torch.Float32, 2), torch.Zeros(s, torch.Float32, 2, 1)
		two := pairs(named{"a", a}, named{"b", b})
		for _, c := range []struct {
			name       string
			into, from iter.Seq2[string, *torch.Tensor]
			want       string
		}{
			{"shape", pairs(named{"a", a}), pairs(named{"a", b}), `"a [2] and a [2 1]"`},
			{"name", pairs(named{"a", a}), pairs(named{"c", a}), `"a [2] and c [2]"`},
			{"more", two, pairs(named{"a", a}), `"b [2 1] and none"`},
			{"fewer", pairs(named{"a", a}), two, `"none and b [2 1]"`},
		} {
			t.Run(c.name, func(t *testing.T) {
				_, err := NewEMA(c.into, c.from)
				require.ErrorContains(t, err, "1 parameters: ["+c.want)
			})
		}
		return nil
	}))
}

func TestHalfLife(t *testing.T) {
	// The consistency models' ImageNet list has .5^(4096/50e6), a half-life of 50 million images at batch 4096.
	require.InDelta(t, 0.9999432189950708, HalfLife{Images: 50e6}.Decay(0, 4096), 1e-15)
	require.Equal(t, 0.5, HalfLife{Images: 100}.Decay(0, 100))
	ramped := HalfLife{Images: 1000, RampUp: 0.05}
	require.Zero(t, ramped.Decay(0, 10), "the first step copies")
	require.Equal(t, 0.5, ramped.Decay(200, 10))
	require.Equal(t, math.Exp2(-0.01), ramped.Decay(1e6, 10))
	// Two steps of half the batch forget as much as one.
	require.InDelta(t, HalfLife{Images: 500}.Decay(0, 64), math.Pow(HalfLife{Images: 500}.Decay(0, 32), 2), 1e-15)
}
