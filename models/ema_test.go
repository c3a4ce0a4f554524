package models

import (
	"encoding/json"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
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

func TestPowerAverages(t *testing.T) {
	// The paper's two widths, and their inverse.
	require.InDelta(t, 0.05, PowerWidth(16.97), 1e-4)
	require.InDelta(t, 0.10, PowerWidth(6.94), 1e-4)
	for _, w := range []float64{0.01, 0.05, 0.1, 0.25} {
		g, err := PowerExponent(w)
		require.NoError(t, err)
		require.InDelta(t, w, PowerWidth(g), 1e-12)
		require.InDelta(t, 0, g*g*g+7*g*g+(16-1/w/w)*g+(12-1/w/w), 1e-6*g*g*g)
	}
	for _, w := range []float64{0, -1, 0.3, math.NaN()} {
		_, err := PowerExponent(w)
		require.ErrorContains(t, err, "want a number between")
	}
	// The decay: after t steps, step τ weighs about τ^γ.
	const steps, gamma = 2000, 3.0
	weights := make([]float64, steps)
	for k := range steps {
		d := PowerDecay(gamma, k)
		for i := range weights {
			weights[i] *= d
		}
		weights[k] = 1 - d
	}
	require.InDelta(t, math.Pow(0.5, gamma), weights[steps/2]/weights[steps-1], 1e-2)
	mean, square := 0.0, 0.0
	for k, w := range weights {
		x := float64(k) / steps
		mean, square = mean+w*x, square+w*x*x
	}
	require.InDelta(t, PowerWidth(gamma), math.Sqrt(square-mean*mean), 1e-3)
}

// An average that was never tracked, put together from two others that were saved now and then, is what tracking it would have
// given: for a walk of 4,000 steps, within what the reported distance says.
func TestCombine(t *testing.T) {
	const steps, every = 4000, 250
	r := rand.New(rand.NewPCG(1, 2))
	tracked := map[float64]float64{16.97: 0, 6.94: 0}
	want := map[float64]float64{0.07: 0, 0.12: 0, 0.03: 0}
	gammas := map[float64]float64{}
	for w := range want {
		g, err := PowerExponent(w)
		require.NoError(t, err)
		gammas[w] = g
	}
	var saved []PowerAverage
	var values []float64
	weight := 0.0
	for k := range steps {
		weight += r.NormFloat64()
		for g := range tracked {
			d := PowerDecay(g, k)
			tracked[g] = d*tracked[g] + (1-d)*weight
		}
		for w, g := range gammas {
			d := PowerDecay(g, k)
			want[w] = d*want[w] + (1-d)*weight
		}
		if (k+1)%every == 0 {
			for _, g := range []float64{16.97, 6.94} {
				saved, values = append(saved, PowerAverage{g, k + 1}), append(values, tracked[g])
			}
		}
	}
	for w, exact := range want {
		factors, distance, err := Combine(saved, PowerAverage{gammas[w], steps})
		require.NoError(t, err)
		got, sum := 0.0, 0.0
		for i, f := range factors {
			got, sum = got+f*values[i], sum+f
		}
		t.Logf("width %g: want %.3f, got %.3f; distance %.4f; the factors' sum %.4f", w, exact, got, distance, sum)
		require.InDelta(t, 1, sum, 0.01)
		require.Less(t, distance, 0.15)
		require.InDelta(t, exact, got, 0.6)
	}
	// One that was tracked is itself.
	factors, distance, err := Combine(saved, saved[len(saved)-1])
	require.NoError(t, err)
	require.Less(t, distance, 1e-5)
	require.InDelta(t, 1, factors[len(factors)-1], 1e-3)
	_, _, err = Combine(nil, saved[0])
	require.ErrorContains(t, err, "at least one")
	_, _, err = Combine(saved, PowerAverage{1, 0})
	require.ErrorContains(t, err, "at least one step")
}

// Exponents, decays and factors are those of NumPy, which finds them without this package's formulas: by the eigenvalues of the
// cubic, by integrals, and by least squares over the profiles themselves. Both are right to about 1e-12 times the condition of
// the problem, for which 1e-8 leaves room.
func TestPowerAveragesGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/averages.json")
	require.NoError(t, err)
	var golden struct {
		Exponents map[string]float64
		Decays    []struct {
			Width, Decay float64
			K            int
		}
		Combinations []struct {
			Widths, Factors []float64
			Steps           []int
			Width, Distance float64
			Step            int
		}
	}
	require.NoError(t, json.Unmarshal(text, &golden))
	exponent := func(width float64) float64 {
		g, err := PowerExponent(width)
		require.NoError(t, err)
		return g
	}
	require.Len(t, golden.Exponents, 6)
	for text, want := range golden.Exponents {
		width, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		require.InEpsilon(t, want, exponent(width), 1e-9, "width %g", width)
	}
	require.Len(t, golden.Decays, 15)
	for _, c := range golden.Decays {
		require.InDelta(t, c.Decay, PowerDecay(exponent(c.Width), c.K), 1e-9, "width %g, step %d", c.Width, c.K)
	}
	require.Len(t, golden.Combinations, 6)
	for _, c := range golden.Combinations {
		var have []PowerAverage
		for i, w := range c.Widths {
			have = append(have, PowerAverage{exponent(w), c.Steps[i]})
		}
		factors, distance, err := Combine(have, PowerAverage{exponent(c.Width), c.Step})
		require.NoError(t, err)
		require.InDeltaSlice(t, c.Factors, factors, 1e-8, "width %g", c.Width)
		require.InDelta(t, c.Distance, distance, 1e-7, "width %g", c.Width)
	}
}
