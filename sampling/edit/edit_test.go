package edit_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func uniform(s *torch.Scope, seed uint64, d torch.DType, shape ...int) *torch.Tensor {
	return torch.Rand(s, torch.NewGenerator(s, seed), d, shape...).MulScalar(s, 2).SubScalar(s, 1)
}

// A is orthogonal, A⁻¹ A = I, and the first coordinate is what its name says, in float64. 1e-14: sums of up to 64 numbers below 1.
func TestTransforms(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const side = 8
		for name, a := range map[string]edit.Transform{
			"colour": edit.Colour{}, "pixels": edit.Patches{Size: 1}, "patches of 2": edit.Patches{Size: 2}, "patches of 8": edit.Patches{Size: 8},
		} {
			n := 3 * side * side
			basis := make([]float64, n*n)
			for i := range n {
				basis[i*n+i] = 1
			}
			e := torch.FromSlice(s, basis, n, 3, side, side)
			q := a.Forward(s, e).Reshape(s, n, n)
			torchtest.Close(t, name+": orthogonal", q.MatMul(s, q.Transpose(s, 0, 1)), torch.FromSlice(s, basis, n, n), 1e-14, 0)
			x := uniform(s, 1, torch.Float64, 5, 3, side, side)
			torchtest.Close(t, name+": inverse", a.Inverse(s, a.Forward(s, x)), x, 1e-14, 0)
			torchtest.Close(t, name+": inverse", a.Forward(s, a.Inverse(s, x)), x, 1e-14, 0)
		}
		x := uniform(s, 2, torch.Float64, 2, 3, side, side)
		channel := func(i int) *torch.Tensor { return x.Narrow(s, 1, i, 1) }
		grey := channel(0).MulScalar(s, 0.2989).Add(s, channel(1).MulScalar(s, 0.5870)).Add(s, channel(2).MulScalar(s, 0.1140))
		length := math.Sqrt(0.2989*0.2989 + 0.5870*0.5870 + 0.1140*0.1140)
		torchtest.Close(t, "luminance", edit.Colour{}.Forward(s, x).Narrow(s, 1, 0, 1), grey.MulScalar(s, 1/length), 1e-14, 0)
		first := edit.Patches{Size: 8}.Forward(s, x).Narrow(s, 2, 0, 1).Narrow(s, 3, 0, 1)
		torchtest.Close(t, "mean", first, x.AvgPool2D(s, 8).MulScalar(s, 8), 1e-14, 0)
		return nil
	}))
}

func means(s *torch.Scope, x *torch.Tensor, k int) *torch.Tensor { return x.AvgPool2D(s, k) }

// What is known is in the result: to the bit for inpainting, else to rounding, in float32, of a consistency function and by every sampler of a
// denoiser, with and without a clamp.
func TestKnownIsKept(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		y := uniform(s, 3, torch.Float32, 1, 3, 8, 8)
		mask := uniform(s, 4, torch.Float32, 1, 1, 8, 8).Ge(s, torch.Full(s, 0, torch.Float32)).To(s, torch.Float32)
		known := mask.Neg(s).AddScalar(s, 1)
		levels := []float64{80, 10, 2, 0.5, 0}
		model := modelstest.Mixture{}
		check := func(name string, clamp bool, sample func(e edit.Edit, o sampling.Options) (*torch.Tensor, error)) {
			run := func(e edit.Edit) *torch.Tensor {
				e.Clamp = clamp
				x, err := sample(e, sampling.Options{Levels: levels, Streams: noise.NewStreams(s, 1, 2)})
				require.NoError(t, err, name)
				require.Equal(t, []int{2, 3, 8, 8}, x.Shape())
				require.Greater(t, x.Narrow(s, 0, 0, 1).Sub(s, x.Narrow(s, 0, 1, 1)).Abs(s).Max(s).Item(), 0.1, "another seed") // what is not known is drawn
				return x
			}
			x := run(edit.Inpaint(y, mask))
			require.Zero(t, x.Sub(s, y).Mul(s, known).Abs(s).Max(s).Item(), name)
			x = run(edit.Colorize(s, y))
			grey := func(x *torch.Tensor) *torch.Tensor { return edit.Colour{}.Forward(s, x).Narrow(s, 1, 0, 1) }
			torchtest.Close(t, name, grey(x), grey(y).Expand(s, 2, 1, 8, 8), 1e-6, 0)
			e, err := edit.Superresolve(s, y, 4)
			require.NoError(t, err)
			torchtest.Close(t, name, means(s, run(e), 4), means(s, y, 4).Expand(s, 2, 3, 2, 2), 1e-6, 0)
		}
		for _, clamp := range []bool{false, true} {
			check("multistep", clamp, func(e edit.Edit, o sampling.Options) (*torch.Tensor, error) {
				return e.Sample(t.Context(), s, model, sampling.Multistep{}, o)
			})
			for _, name := range sampling.Names() {
				by, err := sampling.Named(name)
				require.NoError(t, err)
				check(name, clamp, func(e edit.Edit, o sampling.Options) (*torch.Tensor, error) {
					return e.SampleDenoiser(t.Context(), s, model, by, o)
				})
			}
		}
		return nil
	}))
}

// patchy is a distribution of 2×2 images: in the space of the patches' transform, the first coordinate, twice the mean, is one of two narrow
// modes, and the details are small. So all four pixels are near 0.8, or all near -0.8. Noise is the same in any orthogonal basis, so that its
// denoiser and consistency function are exact.
var patchy = inPatches{modelstest.Mixture{Axes: []modelstest.Axis{
	{{Mean: -1.6, Std: 0.1}, {Mean: 1.6, Std: 0.1}}, {{Std: 0.05}}, {{Std: 0.05}}, {{Std: 0.05}},
}}}

type inPatches struct{ modelstest.Mixture }

var basis = edit.Patches{Size: 2}

func (m inPatches) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return basis.Inverse(s, m.Mixture.Origin(s, basis.Forward(s, x), t, c))
}

func (m inPatches) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return basis.Inverse(s, m.Mixture.Denoise(s, basis.Forward(s, x), t, c))
}

// With an exact model, what is repainted is on the support of the conditional distribution: if two pixels of four are near 0.8, so are the
// others, though without them half would be near -0.8. 0.3: 6 standard deviations of a pixel given two others. With a consistency function all
// are. With a denoiser most are, by samplers that add noise, since the known part that it sees is noisy while it decides; those that follow the
// ODE decide once, and a sixth of the pixels ends elsewhere.
func TestInpaintingIsConditional(t *testing.T) {
	const n = 128
	levels := append(edit.Levels(80, 18), 0)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, side := range []float64{0.8, -0.8} {
			y := torch.FromSlice(s, []float64{side, side + 0.02, 0, 0}, 1, 1, 2, 2)
			e := edit.Inpaint(y, torch.FromSlice(s, []float32{0, 0, 1, 1}, 1, 1, 2, 2))
			check := func(name string, from, to float64, sample func(o sampling.Options) (*torch.Tensor, error)) {
				x, err := sample(sampling.Options{Levels: levels, Streams: noise.NewStreams(s, noise.Seeds(1, n)...)})
				require.NoError(t, err)
				away := x.Narrow(s, 2, 1, 1).SubScalar(s, side)
				near := away.Abs(s).Lt(s, torch.Full(s, 0.3, torch.Float64)).To(s, torch.Float64).Mean(s).Item()
				t.Logf("%s at %g: %.3f of %d pixels are near, the mean is %.4f away", name, side, near, 2*n, away.Mean(s).Item())
				require.GreaterOrEqual(t, near, from, name)
				require.LessOrEqual(t, near, to, name)
			}
			check("consistency function", 1, 1, func(o sampling.Options) (*torch.Tensor, error) {
				return e.Sample(t.Context(), s, patchy, sampling.Multistep{}, o)
			})
			for name, part := range map[string][2]float64{"dpmpp_2s_a": {0.96, 1}, "edm": {0.96, 1}, "heun": {0.75, 0.92}} {
				by, err := sampling.Named(name)
				require.NoError(t, err)
				check(name, part[0], part[1], func(o sampling.Options) (*torch.Tensor, error) {
					return e.SampleDenoiser(t.Context(), s, patchy, by, o)
				})
			}
		}
		return nil
	}))
}

// gaussianPair is data (a, b) of standard deviation 0.5 and correlation ρ, as images of two pixels: in the basis (a+b, a-b)/√2 it is two
// independent Gaussians.
type gaussianPair struct{ correlation float64 }

func (g gaussianPair) along(s *torch.Scope, x *torch.Tensor, f func(g modelstest.Gaussian, x *torch.Tensor) *torch.Tensor) *torch.Tensor {
	a, b := x.Narrow(s, 3, 0, 1), x.Narrow(s, 3, 1, 1)
	sum := f(modelstest.Gaussian{Std: 0.5 * math.Sqrt(1+g.correlation)}, a.Add(s, b).MulScalar(s, math.Sqrt2/2))
	diff := f(modelstest.Gaussian{Std: 0.5 * math.Sqrt(1-g.correlation)}, a.Sub(s, b).MulScalar(s, math.Sqrt2/2))
	return torch.Cat(s, []*torch.Tensor{sum.Add(s, diff), sum.Sub(s, diff)}, 3).MulScalar(s, math.Sqrt2/2)
}

func (g gaussianPair) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return g.along(s, x, func(g modelstest.Gaussian, x *torch.Tensor) *torch.Tensor { return g.Origin(s, x, t, c) })
}

// The law of what algorithm 4 repaints, for Gaussian data of two pixels with a known, is a linear recursion: with the factors p and q of the
// exact function along (a+b, a-b)/√2 at level t, b ← ((p-q)/2)·(a + t·z_1) + ((p+q)/2)·(b + t·z_2). The samples have its mean and standard
// deviation, to 5 standard deviations of these. It is not the conditional law N(ρ·a, 0.25·(1-ρ²)): how near it is to that is the error of the
// algorithm with an exact model, which falls with the number of steps and is smaller with Levels than with the authors' levels.
func TestInpaintingOfGaussian(t *testing.T) {
	const n, known, rho = 20000, 0.6, 0.8
	law := func(levels []float64) (mean, std float64) {
		variance := 0.0
		for i, at := range levels {
			factor := func(std float64) float64 { return math.Hypot(std, eps) / math.Hypot(std, at) }
			p, q := factor(0.5*math.Sqrt(1+rho)), factor(0.5*math.Sqrt(1-rho))
			across, own := (p-q)/2, (p+q)/2
			added := at * at
			if i > 0 {
				added -= eps * eps
			}
			mean = across*known + own*mean
			variance = own*own*(variance+added) + across*across*added
		}
		return mean, math.Sqrt(variance)
	}
	want, wantStd := rho*known, 0.5*math.Sqrt(1-rho*rho)
	for _, c := range []struct {
		name      string
		levels    []float64
		mean, std float64 // parts of those of the conditional law
	}{
		{"authors, 40", sampling.Levels(80, 40)[:40], 0.72, 1.16}, {"18", edit.Levels(80, 18), 0.68, 1.19}, {"40", edit.Levels(80, 40), 0.82, 1.09},
		{"200", edit.Levels(80, 200), 0.95, 1.03},
	} {
		mean, std := law(c.levels)
		t.Logf("%s levels: mean %.3f of the conditional, standard deviation %.3f", c.name, mean/want, std/wantStd)
		require.InDelta(t, c.mean, mean/want, 0.015, c.name)
		require.InDelta(t, c.std, std/wantStd, 0.015, c.name)
	}
	levels := edit.Levels(80, 18)
	mean, std := law(levels)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		e := edit.Inpaint(torch.FromSlice(s, []float64{known, 0}, 1, 1, 1, 2), torch.FromSlice(s, []float32{0, 1}, 1, 1, 1, 2))
		e.Clamp = false
		// One generator for all: 20,000 would take longer than what they draw.
		gen := torch.NewGenerator(s, 1)
		e.Noise = torch.Randn(s, gen, torch.Float64, n, 1, 1, 2)
		x, err := e.Start(s, sampling.Options{Levels: levels})
		require.NoError(t, err)
		f := e.Function(s, gaussianPair{rho})
		for i, at := range levels {
			if i > 0 {
				x = x.Add(s, torch.Randn(s, gen, torch.Float64, n, 1, 1, 2).MulScalar(s, math.Sqrt(at*at-eps*eps)))
			}
			x = f.Origin(s, x, torch.Full(s, at, torch.Float64, n), models.Cond{})
		}
		b := x.Narrow(s, 3, 1, 1)
		gotMean := b.Mean(s).Item()
		require.InDelta(t, mean, gotMean, 5*std/math.Sqrt(n))
		require.InDelta(t, std, math.Sqrt(b.SubScalar(s, gotMean).Square(s).Mean(s).Item()), 5*std/math.Sqrt(2*n))
		return nil
	}))
}

// Parts that do not fit together are errors, never panics, and nothing is computed.
func TestRefuses(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		y, grey, z := torch.Zeros(s, torch.Float32, 1, 3, 8, 8), torch.Zeros(s, torch.Float32, 1, 1, 8, 8), torch.Zeros(s, torch.Float32, 3, 3, 8, 8)
		streams := noise.NewStreams(s, 1, 2)
		for name, c := range map[string]struct {
			e edit.Edit
			o sampling.Options
		}{
			"nothing":               {edit.Edit{}, sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"no levels":             {edit.Stroke(y), sampling.Options{Streams: streams}},
			"no streams":            {edit.Stroke(y), sampling.Options{Levels: []float64{1, 0}}},
			"no image":              {edit.Edit{Mask: grey, Noise: z}, sampling.Options{Levels: []float64{1, 0}}},
			"a mask of a shape":     {edit.Inpaint(y, torch.Zeros(s, torch.Float32, 1, 1, 4, 4)), sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"a large mask":          {edit.Inpaint(y, torch.Zeros(s, torch.Float32, 1, 1, 1, 8, 8)), sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"colours of grey":       {edit.Colorize(s, grey), sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"an odd size":           {edit.Edit{Image: y, Transform: edit.Patches{Size: 3}}, sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"noise of a shape":      {edit.Edit{Image: y, Noise: grey}, sampling.Options{Levels: []float64{1, 0}}},
			"rows":                  {edit.Edit{Noise: z}, sampling.Options{Levels: []float64{2, 1, 0}, Streams: streams}},
			"three dimensions":      {edit.Stroke(torch.Zeros(s, torch.Float32, 3, 8, 8)), sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"integers":              {edit.Stroke(torch.Zeros(s, torch.Int64, 1, 3, 8, 8)), sampling.Options{Levels: []float64{1, 0}, Streams: streams}},
			"a mask of a noisy one": {edit.Edit{Image: y, Mask: grey, Noisy: true}, sampling.Options{Levels: []float64{1, 0}}},
			"levels that rise":      {edit.Stroke(y), sampling.Options{Levels: []float64{1, 2}, Streams: streams}},
		} {
			_, err := c.e.Sample(t.Context(), s, coupled{}, sampling.Multistep{}, c.o)
			require.Error(t, err, name)
		}
		_, err := edit.Superresolve(s, y, 1)
		require.Error(t, err)
		_, err = edit.Superresolve(s, y, 3)
		require.Error(t, err)
		_, err = edit.Slerp(s, y, grey, 0.5)
		require.Error(t, err)
		_, err = edit.Slerp(s, y, y)
		require.Error(t, err)
		_, err = edit.Blend(s, y, grey, y)
		require.Error(t, err)
		return nil
	}))
}

// Interpolation ends at its noises to the bit, keeps their norm between independent ones, and is linear between parallel ones.
func TestSlerp(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		z := noise.NewStreams(s, 1, 2).Randn(s, torch.Float32, 3, 32, 32)
		z1, z2 := z.Narrow(s, 0, 0, 1), z.Narrow(s, 0, 1, 1)
		out, err := edit.Slerp(s, z1, z2, edit.Fractions(5)...)
		require.NoError(t, err)
		require.Equal(t, z1.Contiguous(s).Bytes(), out.Narrow(s, 0, 0, 1).Contiguous(s).Bytes())
		require.Equal(t, z2.Contiguous(s).Bytes(), out.Narrow(s, 0, 4, 1).Contiguous(s).Bytes())
		for i := range 5 {
			require.InDelta(t, 1, out.Narrow(s, 0, i, 1).Square(s).Mean(s).Item(), 5*math.Sqrt(2.0/3072)) // standard normal
		}
		out, err = edit.Slerp(s, z1, z1.MulScalar(s, 3), 0.5)
		require.NoError(t, err)
		torchtest.Close(t, "parallel", out, z1.MulScalar(s, 2), 1e-5, 0)
		require.Equal(t, []float64{0}, edit.Fractions(1))
		require.Empty(t, edit.Fractions(-1))
		return nil
	}))
}

// Levels descend from the largest, whatever it is and however many there are.
func TestLevels(t *testing.T) {
	for _, largest := range []float64{0.01, 1, 20, 80} {
		for steps := 1; steps < 45; steps++ {
			levels := edit.Levels(largest, steps)
			require.Len(t, levels, steps)
			require.Equal(t, largest, levels[0])
			require.NoError(t, sampling.Multistep{}.Validate(append(levels, 0)), "%v", levels)
		}
	}
}
