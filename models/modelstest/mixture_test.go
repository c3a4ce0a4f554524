package modelstest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// uneven is a mixture without symmetry: other weights, deviations and gaps.
var uneven = Axis{{Weight: 1, Mean: 1.5, Std: 0.3}, {Weight: 5, Mean: -0.4, Std: 0.05}, {Weight: 2, Mean: 0.3, Std: 0.2}}

// narrow is one whose modes are 30 deviations apart: between them there is next to nothing.
var narrow = Axis{{Mean: -0.6, Std: 0.02}, {Weight: 2, Std: 0.02}, {Mean: 0.6, Std: 0.02}}

// trapezoid integrates f from a to b.
func trapezoid(a, b float64, n int, f func(x float64) float64) float64 {
	sum := (f(a) + f(b)) / 2
	for i := 1; i < n; i++ {
		sum += f(a + (b-a)*float64(i)/float64(n))
	}
	return sum * (b - a) / float64(n)
}

// Density, distribution function and denoiser against integrals of their definitions: the data's density times the noise's.
func TestAxisAgainstQuadrature(t *testing.T) {
	for _, a := range []Axis{Grid(), uneven} {
		clean := func(y float64) float64 {
			sum, weights := 0.0, 0.0
			for _, c := range a {
				w := c.Weight
				if w == 0 {
					w = 1
				}
				weights += w
				sum += w * math.Exp(-(y-c.Mean)*(y-c.Mean)/(2*c.Std*c.Std)) / (c.Std * math.Sqrt(2*math.Pi))
			}
			return sum / weights
		}
		for _, at := range []struct{ x, t float64 }{{-0.45, 0.03}, {0.31, 0.2}, {0.9, 1}, {-100, 80}} {
			noisy := func(y float64) float64 {
				z := (at.x - y) / at.t
				return clean(y) * math.Exp(-z*z/2) / (at.t * math.Sqrt(2*math.Pi))
			}
			const n = 20_000
			density := trapezoid(-2, 4, n, noisy)
			require.InEpsilon(t, density, a.Density(at.x, at.t), 1e-10)
			mean := trapezoid(-2, 4, n, func(y float64) float64 { return y * noisy(y) }) / density
			require.InDelta(t, mean, a.Denoise(at.x, at.t), 1e-10)
			below := trapezoid(-2, 4, n, func(y float64) float64 { return clean(y) * math.Erfc((y-at.x)/(at.t*math.Sqrt2)) / 2 })
			require.InDelta(t, below, a.CDF(at.x, at.t), 1e-10)
		}
		require.InEpsilon(t, clean(0.2), a.Density(0.2, 0), 1e-12)
	}
	mean := trapezoid(-3, 3, 20_000, func(x float64) float64 { return x * x * Grid().Density(x, 0) })
	require.InDelta(t, 0.25, mean, 1e-12, "the standard deviation of Grid is 0.5")
}

// heun integrates dx/dt = (x - D)/t from level t to another in n steps, evenly spaced in the 7th root.
func heun(a Axis, x, t, to float64, n int) float64 {
	b := a.sorted()
	denoise := func(x, t float64) float64 {
		all, mean := b.logDensity(x, t), 0.0
		for _, c := range b {
			v := c.Std*c.Std + t*t
			part := c.Weight * math.Exp(-(x-c.Mean)*(x-c.Mean)/(2*v)-all) / math.Sqrt(2*math.Pi*v)
			mean += part * (c.Mean + (x-c.Mean)*c.Std*c.Std/v)
		}
		return mean
	}
	level := func(i int) float64 {
		p, q := math.Pow(t, 1.0/7), math.Pow(to, 1.0/7)
		return math.Pow(p+(q-p)*float64(i)/float64(n), 7)
	}
	for i := range n {
		u, v := level(i), level(i+1)
		d1 := (x - denoise(x, u)) / u
		d2 := (x + (v-u)*d1 - denoise(x+(v-u)*d1, v)) / v
		x += (v - u) * (d1 + d2) / 2
	}
	return x
}

// Move is where the probability-flow ODE leads, down and up: two fine integrations and what they point to, which leaves an error of
// some 1e-10. Their own errors show that it is the ODE that is compared: they are a quarter with twice the steps.
func TestAxisMoveFollowsTheODE(t *testing.T) {
	for _, a := range []Axis{Grid(), uneven} {
		for _, c := range []struct{ x, t, to float64 }{
			{75, 80, 0.002}, {-3, 80, 0.002}, {12, 80, 0.002}, {-150, 80, 0.5}, {0.8, 1, 0.002}, {0.29, 0.3, 0.002}, {0.05, 0.3, 3}, {-0.61, 0.01, 80},
		} {
			want := a.Move(c.x, c.t, c.to)
			once, twice := heun(a, c.x, c.t, c.to, 4000), heun(a, c.x, c.t, c.to, 8000)
			require.InDelta(t, want, (4*twice-once)/3, 2e-9*(1+math.Abs(want)), "%+v", c)
			if e := math.Abs(once - want); e > 1e-8 {
				require.InDelta(t, 4, (once-want)/(twice-want), 0.1, "%+v", c)
			}
		}
	}
}

// F is the same at both ends of a move, to 1e-12 and relative to the smaller tail; there and back is where it began; order stays.
func TestAxisMoveKeepsF(t *testing.T) {
	for _, a := range []Axis{Grid(), uneven, narrow, {{Std: 0.3}}} {
		last := math.Inf(-1)
		for i := -400; i <= 400; i++ {
			x := float64(i) // five deviations each way
			y := a.Move(x, 80, 0.002)
			require.Greater(t, y, last)
			last = y
			b := a.sorted()
			for _, j := range []int{0, len(a)} {
				f, _ := b.excess(j, x, 80)
				g, slope := b.excess(j, y, 0.002)
				// One rounding of y changes ln F by slope·|y|·1e-16.
				require.InDelta(t, f, g, 1e-12+2e-16*slope*(1+math.Abs(y)), "%d at %g", j, x)
			}
			// Back is as exact as one rounding of y allows.
			_, up := b.deviation(0, x, 80)
			_, down := b.deviation(0, y, 0.002)
			require.InDelta(t, x, a.Move(y, 0.002, 80), 1e-9+1e-15*down/up*(1+math.Abs(y)), "%g", x)
		}
	}
}

// A mixture of one, or of equals, is a Gaussian, however far out.
func TestAxisOfOneIsGaussian(t *testing.T) {
	g := Gaussian{Mean: -0.3, Std: 0.2}
	for _, a := range []Axis{{{Mean: -0.3, Std: 0.2}}, {{Mean: -0.3, Std: 0.2, Weight: 3}, {Mean: -0.3, Std: 0.2}}} {
		for _, deviations := range []float64{0, 0.7, -5, 25, -29, 31, -100, 3000} {
			for _, levels := range [][2]float64{{80, 0.002}, {0.5, 3}, {0, 2}, {3, 0}} {
				x := -0.3 + deviations*math.Hypot(0.2, levels[0])
				require.InDelta(t, g.Move(x, levels[0], levels[1]), a.Move(x, levels[0], levels[1]), 1e-12*(1+math.Abs(x)), "%g deviations", deviations)
			}
		}
		for _, x := range []float64{math.Inf(1), math.Inf(-1)} {
			require.Equal(t, x, a.Move(x, 80, 0.002))
		}
		require.True(t, math.IsNaN(a.Move(math.NaN(), 80, 0.002)))
	}
}

// The logarithm of the normal distribution function, against erfc as far as that reaches and where the series takes over, and beyond
// against Mills' bounds.
func TestLogPhi(t *testing.T) {
	for _, z := range []float64{0, 1.5, 8, -1, -10, -29.99, -30, -30.01, -33, -37} {
		require.InEpsilon(t, math.Log(math.Erfc(-z/math.Sqrt2)/2), logPhi(z), 1e-14, "%g", z)
	}
	for _, z := range []float64{40, 1e3, 1e8} {
		tail := logPhi(-z) + z*z/2 + math.Log(z*math.Sqrt(2*math.Pi))
		require.Less(t, tail, 1e-15*z*z)
		require.Greater(t, tail, math.Log1p(-1/(z*z))-1e-15*z*z)
	}
}

// Between narrow modes F is flat to more digits than float64 has. Points there still go where the ODE leads, and come back, because
// it is F's difference from its value between the modes that is compared.
func TestAxisBetweenNarrowModes(t *testing.T) {
	two := Axis{{Mean: -0.6, Std: 0.02}, {Mean: 0.6, Std: 0.02}}
	require.Equal(t, two.CDF(-0.3, 0.002), two.CDF(0.3, 0.002))
	require.InDelta(t, 0, two.Move(0, 80, 0.002), 1e-15)
	for _, x := range []float64{0, 1e-3, -0.02, 0.1, -0.2, 0.3, -0.45, 0.5, 0.55, 0.6, 0.62, 1} {
		up := two.Move(x, 0.002, 0.02)
		require.InDelta(t, (4*heun(two, x, 0.002, 0.02, 8000)-heun(two, x, 0.002, 0.02, 4000))/3, up, 1e-9, "from %g", x)
		if math.Abs(up) > 1e-3 { // all points that are nearer to the middle come together there
			require.InDelta(t, x, two.Move(up, 0.02, 0.002), 1e-9, "from %g", x)
		}
	}
}

// The tensors agree with the numbers, whatever the shape and the type; with one axis for each element too.
func TestMixtureTensors(t *testing.T) {
	for _, m := range []Mixture{{}, {Axes: []Axis{uneven}, SigmaMin: 0.01}, {Axes: []Axis{Grid(), uneven, {{Mean: 0.1, Std: 0.5}}, narrow}}} {
		require.NoError(t, m.Validate())
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			levels := []float64{0.002, 0.3, 80}
			at := torch.FromSlice(s, levels)
			next := []float64{0.1, 80, 0.5}
			z := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 3, 1, 2, 2)
			x := m.Sample(s, torch.NewGenerator(s, 2), torch.Float64, 3, 1, 2, 2).Add(s, z.Mul(s, at.PerSample(s, 4)))
			values := torch.ToSlice[float64](x)
			axis := func(i int) Axis { return m.axes()[i%4%len(m.axes())] }
			var denoised, origin, jump []float64
			density := make([]float64, 3)
			for i, v := range values {
				level := levels[i/4]
				denoised = append(denoised, axis(i).Denoise(v, level))
				origin = append(origin, axis(i).Move(v, level, m.sigmaMin()))
				jump = append(jump, axis(i).Move(v, level, next[i/4]))
				density[i/4] += math.Log(axis(i).Density(v, level))
			}
			for _, d := range []torch.DType{torch.Float64, torch.Float32} {
				for _, shape := range [][]int{{3, 1, 2, 2}, {3, 4}} {
					in := x.To(s, d).Reshape(s, shape...)
					tolerance := 1e-12
					if d == torch.Float32 {
						tolerance = 1e-5 // of x at 80 to 1e-5, and where f is steep
					}
					before := torch.Live()
					for _, c := range []struct {
						got  *torch.Tensor
						want []float64
					}{
						{m.Denoise(s, in, at, models.Cond{}), denoised},
						{m.Origin(s, in, at, models.Cond{}), origin},
						{m.Jump(s, in, at, torch.FromSlice(s, next), models.Cond{}), jump},
					} {
						require.Equal(t, d, c.got.DType())
						require.Equal(t, shape, c.got.Shape())
						for i, v := range torch.ToSlice[float64](c.got.To(s, torch.Float64)) {
							require.InDelta(t, c.want[i], v, tolerance*(1+math.Abs(c.want[i])))
						}
					}
					require.LessOrEqual(t, torch.Live()-before, int64(7))
				}
			}
			require.InDeltaSlice(t, density, torch.ToSlice[float64](m.LogDensity(s, x, at)), 1e-10)
			// f(x, ε) is x in every bit, for levels of any type.
			for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
				in := x.To(s, torch.Float32)
				require.Equal(t, in.Bytes(), m.Origin(s, in, torch.Full(s, m.sigmaMin(), d, 3), models.Cond{}).Bytes())
			}
			return nil
		}))
	}
}

// The denoiser's derivative is the posterior's variance by t², so that it is above 0, and agrees with differences.
func TestMixtureDerivative(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float64{0.2, -0.7, 0.4}, 3, 1)
		x.SetRequiresGrad(true)
		m := Mixture{Axes: []Axis{uneven}}
		m.Denoise(s, x, torch.FromSlice(s, []float64{0.1, 0.3, 2}), models.Cond{}).Sum(s).Backward()
		got := torch.ToSlice[float64](x.Grad(s))
		const h = 1e-6
		for i, c := range []struct{ x, t float64 }{{0.2, 0.1}, {-0.7, 0.3}, {0.4, 2}} {
			require.InDelta(t, (uneven.Denoise(c.x+h, c.t)-uneven.Denoise(c.x-h, c.t))/(2*h), got[i], 1e-7)
			require.Positive(t, got[i])
		}
		return nil
	}))
}

// Samples have the distribution function, on every axis: the largest distance of 20,000 is below Kolmogorov's 0.999 quantile.
func TestMixtureSample(t *testing.T) {
	m := Mixture{Axes: []Axis{Grid(), uneven, {{Std: 0.3}}}}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n = 20_000
		x := m.Sample(s, torch.NewGenerator(s, 1), torch.Float64, n, 3)
		again := m.Sample(s, torch.NewGenerator(s, 1), torch.Float32, n, 3)
		require.Equal(t, torch.ToSlice[float32](x.To(s, torch.Float32)), torch.ToSlice[float32](again))
		for j, a := range m.Axes {
			sorted, _ := x.Select(s, 1, j).Sort(s, 0, false)
			worst := 0.0
			for i, v := range torch.ToSlice[float64](sorted.Contiguous(s)) {
				f := a.CDF(v, 0)
				worst = max(worst, math.Abs(f-float64(i)/n), math.Abs(f-float64(i+1)/n))
			}
			require.Less(t, worst, 1.95/math.Sqrt(n))
		}
		// Axes are drawn independently of each other.
		a, b := x.Select(s, 1, 0), x.Select(s, 1, 1).SubScalar(s, uneven.Denoise(0, 1e9))
		correlation := a.Mul(s, b).Mean(s).Item() / (a.Std(s, 1).Item() * b.Std(s, 1).Item())
		require.InDelta(t, 0, correlation, 4/math.Sqrt(n))
		return nil
	}))
}

// Noise that follows the ODE to ε is data: f carries N(0, 80²) to samples of the mixture.
func TestMixtureOriginOfNoise(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	const n = 20_000
	a := Grid()
	sum, square := 0.0, 0.0
	for range n {
		x := a.Move(80*r.NormFloat64(), 80, 0.002)
		sum += x
		square += x * x
	}
	require.InDelta(t, 0, sum/n, 5*0.5/math.Sqrt(n))
	require.InDelta(t, 0.5, math.Sqrt(square/n), 0.01)
}

// Errors of solvers on the grid of nine modes from N(0, 80²), as others measured them to two or three digits: what a test of
// solvers against this oracle should find. The published numbers are of two dimensions, with Karras's levels.
func TestSolverErrorsOnTheGrid(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	const n = 4000
	square := 0.0
	for range n {
		x := 80 * r.NormFloat64()
		e := heun(Grid(), x, 80, 0.002, 17) - Grid().Move(x, 80, 0.002)
		square += e * e
	}
	require.InDelta(t, 0.0259, math.Sqrt(square/n), 0.0026)
}

func TestMixtureRefuses(t *testing.T) {
	for _, c := range []struct {
		m    Mixture
		want string
	}{
		{Mixture{Axes: []Axis{}}, "mixture: want at least one axis"},
		{Mixture{Axes: []Axis{Grid(), {}}}, "axis 1: mixture: want at least one component"},
		{Mixture{Axes: []Axis{{{Mean: 1}}}}, "axis 0: mixture: component 0: want a weight above 0"},
		{Mixture{Axes: []Axis{{{Std: 1}, {Std: -1}}}}, "component 1"},
		{Mixture{Axes: []Axis{{{Std: 1, Weight: -1}}}}, "component 0"},
		{Mixture{Axes: []Axis{{{Std: 1, Mean: math.NaN()}}}}, "component 0"},
		{Mixture{Axes: []Axis{{{Std: math.Inf(1)}}}}, "component 0"},
		{Mixture{SigmaMin: -1}, "a smallest noise level above 0, or 0 for 0.002, got 1 and -1"},
	} {
		require.ErrorContains(t, c.m.Validate(), c.want)
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, at := torch.Zeros(s, torch.Float32, 2, 3), torch.Ones(s, torch.Float32, 2)
		two := Mixture{Axes: []Axis{Grid(), Grid()}}
		require.ErrorContains(t, torch.Catch(func() { two.Denoise(s, x, at, models.Cond{}) }), "want samples of 2 elements, one for each axis, got 3")
		require.ErrorContains(t, torch.Catch(func() { two.Origin(s, x, at, models.Cond{}) }), "got 3")
		require.ErrorContains(t, torch.Catch(func() { Axis{}.Move(0, 1, 2) }), "at least one component")
		return nil
	}))
}

func BenchmarkMixtureMove(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	axis := Grid().sorted()
	for b.Loop() {
		axis.move(80*r.NormFloat64(), 80, 0.002)
	}
}
