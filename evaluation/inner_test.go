package evaluation

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// The sliced distance equals POT's for the same directions; the sets have 150 and 120 images, so that quantile functions have different steps.
// All is float64.
func TestSlicedGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, metadata := torchtest.Golden(t, s, "testdata/golden.safetensors")
		want, err := strconv.ParseFloat(metadata["sliced"], 64)
		require.NoError(t, err)
		require.InEpsilon(t, want, along(s, golden["a"], golden["b"], golden["directions"]), 1e-10)
		require.InEpsilon(t, want, along(s, golden["b"], golden["a"], golden["directions"]), 1e-10)
		return nil
	}))
}

// A set that is the other, moved by v, is at a distance of |v|/√D in D dimensions: the mean of (v·θ)² over all directions is |v|²/D. A set with
// each image twice is the same distribution.
func TestSlicedOfShift(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 50, 6)
		d, err := Sliced{Projections: 20000}.Distance(s, x, x.AddScalar(s, 3))
		require.NoError(t, err)
		require.InEpsilon(t, 3, d, 0.01)
		d, err = Sliced{}.Distance(s, x, torch.Cat(s, []*torch.Tensor{x, x}, 0))
		require.NoError(t, err)
		require.Less(t, d, 1e-12)
		return nil
	}))
}

func collected(t *testing.T, x *torch.Tensor) Moments {
	t.Helper()
	c := NewCollector(0)
	defer c.Close()
	require.NoError(t, c.Add(x))
	m, err := c.Moments()
	require.NoError(t, err)
	return m
}

func TestMomentsWithoutSome(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 20, 3).AddScalar(s, 7)
		want := collected(t, x.Narrow(s, 0, 8, 12))
		got := collected(t, x).without(collected(t, x.Narrow(s, 0, 0, 8)))
		require.Equal(t, want.N, got.N)
		require.InEpsilonSlice(t, want.Mean, got.Mean, 1e-12)
		require.InDeltaSlice(t, want.Cov, got.Cov, 1e-12)
		return nil
	}))
}

// Of n samples of a normal distribution that is moved by v in D dimensions, the distance is |v|² + 2·v·e with the error e of the mean, of
// variance 1/n in each dimension, up to terms of order 1/n: its standard deviation is 2|v|/√n. With fewer images than features, no formula is
// there, but the interval agrees with how much distances of many sets vary, although the distances themselves are far too large.
func TestInterval(t *testing.T) {
	for _, c := range []struct {
		n, d     int
		shift    float64
		variance float64 // 0: that of the sets
	}{{400, 4, 1, 4. * 4 / 400}, {40, 64, 0.5, 0}} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			origin, err := newOrigin(s, Moments{N: 1e6, Mean: make([]float64, c.d), Cov: torch.ToSlice[float64](torch.Eye(s, c.d, torch.Float64))})
			require.NoError(t, err)
			const sets = 60
			g := torch.NewGenerator(s, 1)
			var variance, sum, squares float64
			for range sets {
				x := torch.Randn(s, g, torch.Float64, c.n, c.d).AddScalar(s, c.shift)
				m := collected(t, x)
				distance, err := origin.distance(m)
				require.NoError(t, err)
				j := newJackknife()
				defer j.close()
				for at := 0; at < c.n; at += 25 {
					require.NoError(t, j.add(s, at, x.Narrow(s, 0, at, min(25, c.n-at))))
				}
				i, err := j.interval(origin, m, distance)
				require.NoError(t, err)
				require.InDelta(t, distance, (i.Low+i.High)/2, 1e-9)
				variance += math.Pow((i.High-i.Low)/2/quantile, 2) / sets
				sum, squares = sum+distance, squares+distance*distance
			}
			want := c.variance
			if want == 0 {
				want = (squares - sum*sum/sets) / (sets - 1)
			}
			// The mean of 60 estimates with 9 degrees of freedom is within 12 % (two standard deviations), that of the sets within 37 %.
			require.InEpsilon(t, want, variance, 0.4, "%v", c)
			return nil
		}))
	}
}

// Blocks of distances give what all distances at once give, and count what the definitions say.
func TestNeighboursInBlocks(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n, m, d, k = block + 90, 2*block + 5, 3, 4
		g := torch.NewGenerator(s, 1)
		x, y := torch.Randn(s, g, torch.Float64, n, d), torch.Randn(s, g, torch.Float64, m, d).AddScalar(s, 0.7)
		got, err := Neighbours{K: k}.Compare(s, x, y)
		require.NoError(t, err)
		a, b := torch.ToSlice[float64](x), torch.ToSlice[float64](y)
		distance := func(p, q []float64, i, j int) float64 {
			var sum float64
			for c := range d {
				sum += math.Pow(p[i*d+c]-q[j*d+c], 2)
			}
			return math.Sqrt(sum)
		}
		radius := func(p []float64, n int) (out []float64) {
			for i := range n {
				var near []float64 // k+1 smallest, sorted
				for j := range n {
					near = append(near, distance(p, p, i, j))
					for at := len(near) - 1; at > 0 && near[at] < near[at-1]; at-- {
						near[at], near[at-1] = near[at-1], near[at]
					}
					near = near[:min(len(near), k+1)]
				}
				out = append(out, near[k])
			}
			return out
		}
		inX, inY := radius(a, n), radius(b, m)
		var want Manifold
		held := make([]bool, m)
		for i := range n {
			var recalled, covered bool
			for j := range m {
				v := distance(a, b, i, j)
				if v < inX[i] {
					want.Density += 1 / float64(k) / m
					held[j], covered = true, true
				}
				recalled = recalled || v < inY[j]
			}
			if recalled {
				want.Recall += 1. / n
			}
			if covered {
				want.Coverage += 1. / n
			}
		}
		for _, h := range held {
			if h {
				want.Precision += 1. / m
			}
		}
		for _, c := range [][2]float64{{want.Precision, got.Precision}, {want.Recall, got.Recall}, {want.Density, got.Density}, {want.Coverage, got.Coverage}} {
			require.InDelta(t, c[0], c[1], 1e-9)
		}
		return nil
	}))
}

// The score of logits is torch-fidelity's, whose parts are contiguous: the generator gives it the images in the order of ours.
func TestScoreGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, metadata := torchtest.Golden(t, s, "testdata/score.safetensors")
		c := newScorer(Features{Logits: func(_ *torch.Scope, x *torch.Tensor) *torch.Tensor { return x }})
		x := golden["logits"]
		for at := 0; at < x.Dim(0); at += 70 {
			require.NoError(t, c.add(at, x.Narrow(s, 0, at, min(70, x.Dim(0)-at))))
		}
		got := c.result()
		for name, v := range map[string]float64{"mean": got.Mean, "std": got.Std} {
			want, err := strconv.ParseFloat(metadata[name], 64)
			require.NoError(t, err)
			require.InEpsilon(t, want, v, 1e-6, name) // logits pass through float32, in which networks compute
		}
		return nil
	}))
}
