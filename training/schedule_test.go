package training

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
)

// The values are the paper's formulas worked out by hand (Song et al. 2023, appendix C; K = 800,000, s0 = 2, s1 = 150).
func TestProgressive(t *testing.T) {
	p := Progressive{Steps: 800_000}
	for _, c := range []struct {
		k, levels int
	}{{0, 2}, {80_000, 48}, {400_000, 107}, {799_999, 151}, {800_000, 151}, {900_000, 151}} {
		n, mu := p.At(c.k)
		assert.Equal(t, c.levels, n, "N(%d)", c.k)
		assert.InDelta(t, math.Exp(2*math.Log(0.9)/float64(c.levels)), mu, 1e-15, "mu(%d)", c.k)
	}
	_, mu := p.At(0)
	assert.InDelta(t, 0.9, mu, 1e-15, "the target's decay starts at mu0")
	last := 0
	for k := 0; k <= p.Steps; k += 1000 {
		n, _ := p.At(k)
		require.GreaterOrEqual(t, n, last, "N must not fall, k=%d", k)
		last = n
	}
}

// Stages of improved consistency training: 8 of 50,000 steps at K = 400,000.
func TestDoubling(t *testing.T) {
	d := Doubling{Steps: 400_000}
	for i, want := range []int{11, 21, 41, 81, 161, 321, 641, 1281} {
		for _, k := range []int{i * 50_000, (i+1)*50_000 - 1} {
			n, mu := d.At(k)
			assert.Equal(t, want, n, "N(%d)", k)
			assert.Zero(t, mu)
		}
	}
	n, _ := d.At(500_000)
	assert.Equal(t, 1281, n, "past the end")
	n, _ = Doubling{S0: 10, S1: 160, Steps: 3}.At(1_000_000_000)
	assert.Equal(t, 161, n, "a run of a few steps")
}

// The gap 1/(N-1) goes from 1/s0 to 1/s1 in a straight line, up to rounding.
func TestLinear(t *testing.T) {
	l := Linear{Steps: 1000}
	for _, c := range []struct{ k, levels int }{{0, 11}, {500, 21}, {900, 94}, {990, 565}, {1000, 1281}, {5000, 1281}} {
		n, decay := l.At(c.k)
		assert.Equal(t, c.levels, n, "N(%d)", c.k)
		assert.Zero(t, decay)
	}
	l = Linear{S0: 20, S1: 200, Decay: 0.9, Steps: 600}
	last := 0
	for k := range 601 {
		n, decay := l.At(k)
		gap := 1.0/20 + (1.0/200-1.0/20)*float64(k)/600
		require.InDelta(t, 1/gap, n-1, 0.5+1e-9)
		require.GreaterOrEqual(t, n, last)
		require.Equal(t, 0.9, decay)
		last = n
	}
	require.Equal(t, 201, last)
	n, _ := Linear{S0: 4, S1: 8}.At(0)
	require.Equal(t, 9, n, "a run of no length is at its end")
}

func TestFitLevels(t *testing.T) {
	for _, c := range [][2]int{{1, 10}, {1000, 10}, {3000, 30}, {15_000, 150}, {800_000, 150}} {
		assert.Equal(t, c[1], FitLevels(c[0]), "%d steps", c[0])
	}
}

// The mass of each index against the closed form, by the law of large numbers: 200,000 draws leave a standard error below
// 0.0012.
func TestLogNormal(t *testing.T) {
	levels := noise.Karras(11, 0.002, 80, 7)
	r := rand.New(rand.NewPCG(1, 2))
	count := make([]float64, len(levels)-1)
	const draws = 200_000
	for range draws {
		count[LogNormal{}.Draw(r, levels)]++
	}
	cdf := func(x float64) float64 { return math.Erf((math.Log(x) + 1.1) / (2 * math.Sqrt2)) }
	all := cdf(80) - cdf(0.002)
	for i := range count {
		assert.InDelta(t, (cdf(levels[i+1])-cdf(levels[i]))/all, count[i]/draws, 0.006, "index %d", i)
	}
}

func TestUniform(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[int]int{}
	for range 3000 {
		seen[Uniform{}.Draw(r, make([]float64, 4))]++
	}
	assert.Len(t, seen, 3, "n runs over the pairs of 4 levels")
	for i := range 3 {
		assert.InDelta(t, 1000, seen[i], 120)
	}
}
