package sampling

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// spy is a consistency function that shows what it is asked.
type spy struct {
	models.ConsistencyFunction
	see func(s *torch.Scope, x, t, origin *torch.Tensor)
}

func (f spy) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	y := f.ConsistencyFunction.Origin(s, x, t, c)
	f.see(s, x, t, y)
	return y
}

// draw starts from noise of the largest level, each image's from its own stream.
func draw(t *testing.T, s *torch.Scope, m Multistep, f models.ConsistencyFunction, levels []float64, streams noise.Streams, shape ...int) *torch.Tensor {
	t.Helper()
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := streams.Randn(s, torch.Float32, shape...).MulScalar(s, levels[0])
		x, err := m.Sample(t.Context(), s, f, x, Options{Levels: levels, Streams: streams})
		require.NoError(t, err)
		return x
	})
}

// One step is the function at noise of deviation 80, from the image's own stream.
func TestOneStep(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := modelstest.Gaussian{Mean: 0.1, Std: 0.4}
		before := torch.Live()
		streams := noise.NewStreams(s, 7, 8)
		got := draw(t, s, Multistep{}, g, Levels(80, 1), streams, 3, 2, 2)
		require.Equal(t, before+3, torch.Live(), "two streams and the result")
		require.Equal(t, []int{2, 3, 2, 2}, got.Shape())
		require.False(t, got.RequiresGrad())
		for i, seed := range []uint64{7, 8} {
			z := torch.Randn(s, torch.NewGenerator(s, seed), torch.Float32, 1, 3, 2, 2)
			want := g.Origin(s, z.MulScalar(s, 80), torch.Full(s, 80, torch.Float32, 1), models.Cond{})
			require.Equal(t, want.Bytes(), got.Narrow(s, 0, i, 1).Contiguous(s).Bytes())
		}

		// From another level, noise of that deviation.
		got = draw(t, s, Multistep{}, g, []float64{5, 0}, noise.NewStreams(s, 7), 4)
		z := torch.Randn(s, torch.NewGenerator(s, 7), torch.Float32, 1, 4)
		want := g.Origin(s, z.MulScalar(s, 5), torch.Full(s, 5, torch.Float32, 1), models.Cond{})
		require.Equal(t, want.Bytes(), got.Bytes())
		return nil
	}))
}

// Algorithm 1 with the exact f, step by step: at each level the last origin plus noise of variance t² - ε², every sample at
// the same level, noise that is new in each step.
func TestMultistepIsAlgorithm1(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const eps, n = 0.5, 40_000 // an ε so large that t² and t² - ε² cannot be confused
		g := modelstest.Gaussian{Mean: 0.1, Std: 0.4, SigmaMin: eps}
		levels := []float64{80, 3, 0.8, 0}
		var noises []*torch.Tensor
		var last *torch.Tensor
		f := spy{g, func(_ *torch.Scope, x, at, origin *torch.Tensor) {
			level := levels[len(noises)]
			require.Equal(t, []float32{float32(level), float32(level)}, torch.ToSlice[float32](at))
			z := x.DivScalar(s, level)
			if last != nil {
				z = x.Sub(s, last).DivScalar(s, math.Sqrt(level*level-eps*eps))
			}
			noises, last = append(noises, z), origin.Clone(s)
		}}
		got := draw(t, s, Multistep{SigmaMin: eps}, f, levels, noise.NewStreams(s, 1, 2), n)
		require.Len(t, noises, 3)
		require.Equal(t, last.Bytes(), got.Bytes(), "the last origin, without noise")
		// 80,000 draws: the standard errors are 0.0035 of the mean and of a correlation, 0.0025 of the deviation.
		for i, z := range noises {
			require.InDelta(t, 0, z.Mean(s).Item(), 0.018, "mean of noise %d", i)
			require.InDelta(t, 1, z.Std(s, 0).Item(), 0.0125, "deviation of noise %d", i)
			for j := range i {
				require.InDelta(t, 0, z.Mul(s, noises[j]).Mean(s).Item(), 0.018, "noises %d and %d", i, j)
			}
		}
		both := noises[1].Unbind(s, 0)
		require.InDelta(t, 0, both[0].Mul(s, both[1]).Mean(s).Item(), 0.025, "the streams of two images")
		return nil
	}))
}

// What two steps make with the exact f has a closed form. With a(t) = √((s² + ε²)/(s² + t²)),
//
//	one step:   mean m·(1 - a(80))              deviation 80·a(80)
//	two steps:  mean m·(1 - a(80)·a(t))         deviation a(t)·√((80·a(80))² + t² - ε²)
func TestMultistepMoments(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n = 400_000
		for _, c := range []struct {
			g  modelstest.Gaussian
			at float64
		}{
			{modelstest.Gaussian{}, 0.8},
			{modelstest.Gaussian{Mean: -0.4, Std: 0.2, SigmaMin: 0.1}, 0.3},
		} {
			eps := c.g.SigmaMin
			if eps == 0 {
				eps = 0.002
			}
			std := c.g.Std
			if std == 0 {
				std = 0.5
			}
			a := func(t float64) float64 { return math.Hypot(std, eps) / math.Hypot(std, t) }
			check := func(levels []float64, mean, dev float64) {
				x := draw(t, s, Multistep{SigmaMin: c.g.SigmaMin}, c.g, levels, noise.NewStreams(s, 3), n).To(s, torch.Float64)
				require.InDelta(t, mean, x.Mean(s).Item(), 4*dev/math.Sqrt(n), "mean at %v", levels)
				require.InDelta(t, dev, x.Std(s, 0).Item(), 4*dev/math.Sqrt(2*n), "deviation at %v", levels)
			}
			dev := 80 * a(80)
			check([]float64{80, 0}, c.g.Mean*(1-a(80)), dev)
			check([]float64{80, c.at, 0}, c.g.Mean*(1-a(80)*a(c.at)), a(c.at)*math.Sqrt(dev*dev+c.at*c.at-eps*eps))
		}
		return nil
	}))
}

// OnStep result but the last is limited before noise is added.
func TestMultistepClamps(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var second *torch.Tensor
		f := spy{modelstest.Gaussian{Std: 5}, func(_ *torch.Scope, x, _, _ *torch.Tensor) { second = x.Clone(s) }}
		levels := []float64{80, 0.01, 0}
		x := draw(t, s, Multistep{Clamp: true}, f, levels, noise.NewStreams(s, 1), 1000)
		require.Less(t, second.Abs(s).Max(s).Item(), 1.06, "[-1, 1] and some noise of deviation 0.01")
		require.Greater(t, x.Abs(s).Max(s).Item(), 1.0)
		draw(t, s, Multistep{}, f, levels, noise.NewStreams(s, 1), 1000)
		require.Greater(t, second.Abs(s).Max(s).Item(), 10.0)
		return nil
	}))
}

// An image depends on its seed, not on the batch it is drawn in or its place there: in every bit where the function treats
// elements alone, and but for the order of summation in a network.
func TestImagesDoNotDependOnTheBatch(t *testing.T) {
	net, err := unet.New(unet.Config{Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1, 2}, Blocks: 1, NormGroups: 4, HeadDim: 4, Attention: []int{4}}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		if err := stir(s, net); err != nil {
			return err
		}
		for _, c := range []struct {
			name string
			f    models.ConsistencyFunction
			tol  float64
		}{{"oracle", modelstest.Gaussian{}, 0}, {"network", &models.Consistency{Net: net}, 1e-5}} {
			draw := func(seeds ...uint64) *torch.Tensor {
				return draw(t, s, Multistep{}, c.f, []float64{80, 5, 0.8, 0}, noise.NewStreams(s, seeds...), 1, 8, 8)
			}
			alone := draw(42)
			require.NotZero(t, alone.Std(s, 0).Item())
			many := draw(noise.Seeds(40, 7)...)
			torchtest.Close(t, c.name+" third of seven", many.Narrow(s, 0, 2, 1).Contiguous(s), alone, c.tol, 0)
			require.Greater(t, many.Narrow(s, 0, 1, 1).Sub(s, alone).Abs(s).Max(s).Item(), 0.1, "another seed is another image")
			twice := draw(9, 42, 42)
			torchtest.Close(t, c.name+" twice in a batch", twice.Narrow(s, 0, 1, 1).Contiguous(s), twice.Narrow(s, 0, 2, 1).Contiguous(s), c.tol, 0)
			require.Equal(t, alone.Bytes(), draw(42).Bytes(), "the same call twice")
		}
		return nil
	}))
}

// stir moves all weights, so that no layer that starts at zero hides the others.
func stir(s *torch.Scope, net models.Network) error {
	return s.NoGrad(func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 5)
		for _, p := range net.Parameters() {
			p.AddScaledInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...), 0.05)
		}
		return nil
	})
}

// A long run holds no more in its last step than in its second.
func TestMultistepFreesIntermediates(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var live []int64
		f := spy{modelstest.Gaussian{}, func(_ *torch.Scope, _, _, _ *torch.Tensor) { live = append(live, torch.Live()) }}
		draw(t, s, Multistep{}, f, Levels(80, 20), noise.NewStreams(s, 1, 2), 4)
		require.Len(t, live, 20)
		require.Equal(t, live[1], live[19])
		return nil
	}))
}

// The class reaches the function in every step.
func TestMultistepPassesTheClass(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		class := torch.FromSlice(s, []int64{3, 1})
		f := &classes{}
		o := Options{Levels: []float64{80, 1, 0}, Streams: noise.NewStreams(s, 1, 2), Cond: models.Cond{Class: class}}
		_, err := Multistep{}.Sample(t.Context(), s, f, torch.Ones(s, torch.Float32, 2, 2), o)
		require.NoError(t, err)
		require.Equal(t, []*torch.Tensor{class, class}, f.seen)
		return nil
	}))
}

type classes struct {
	modelstest.Gaussian
	seen []*torch.Tensor
}

func (f *classes) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	f.seen = append(f.seen, c.Class)
	return f.Gaussian.Origin(s, x, t, c)
}

func TestLevels(t *testing.T) {
	require.Equal(t, []float64{80, 0}, Levels(80, 1))
	require.Equal(t, []float64{80, 0.8, 0}, Levels(80, 2))
	require.Equal(t, []float64{20, 0.2, 0}, Levels(20, 2))
	for n := 1; n < 50; n++ {
		levels := Levels(80, n)
		require.Len(t, levels, n+1)
		require.Equal(t, 80.0, levels[0])
		require.Zero(t, levels[n])
		require.NoError(t, Multistep{}.Validate(levels), "%d steps", n)
		require.Equal(t, n, Multistep{}.Evaluations(levels))
	}
	// The three largest of four levels from 0.002 to 80 with ρ = 7.
	require.InDeltaSlice(t, []float64{80, 9.7232, 0.46998, 0}, Levels(80, 3), 1e-4)
}

func TestSeeds(t *testing.T) {
	require.Equal(t, []uint64{41, 42, 43}, noise.Seeds(41, 3))
	require.Empty(t, noise.Seeds(1, 0))
}

func TestMultistepValidate(t *testing.T) {
	for _, c := range []struct {
		m      Multistep
		levels []float64
		want   string // "": fine
	}{
		{Multistep{}, []float64{80, 0}, ""},
		{Multistep{}, []float64{0.5}, ""},
		{Multistep{}, []float64{80, 24.4, 5.84, 0.9}, ""},
		{Multistep{}, []float64{80, 24.4, 0.002}, ""},
		{Multistep{}, nil, "noise levels: want at least one"},
		{Multistep{}, []float64{0.8, 80}, "noise levels: want descending levels, got 80 after 0.8"},
		{Multistep{}, []float64{80, 80}, "noise levels: want descending levels, got 80 after 80"},
		{Multistep{}, []float64{80, math.NaN()}, "noise levels: want numbers from 0 to 1e6, got NaN"},
		{Multistep{}, []float64{math.Inf(1)}, "noise levels: want numbers from 0 to 1e6, got +Inf"},
		{Multistep{}, []float64{80, -1}, "noise levels: want numbers from 0 to 1e6, got -1"},
		{Multistep{}, []float64{80, 0.002, 0}, "noise levels: want all but the last above the minimum level 0.002, got 0.002"},
		{Multistep{SigmaMin: 0.5}, []float64{80, 0.4, 0}, "noise levels: want all but the last above the minimum level 0.5, got 0.4"},
		{Multistep{SigmaMin: -0.1}, []float64{80, 0}, "minimum noise level: want more than 0, got -0.1"},
		{Multistep{SigmaMin: math.NaN()}, []float64{80, 0}, "minimum noise level: want more than 0, got NaN"},
	} {
		err := c.m.Validate(c.levels)
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, c.want)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x, err := c.m.Sample(t.Context(), s, modelstest.Gaussian{}, torch.Ones(s, torch.Float32, 1, 1), Options{Levels: c.levels, Streams: noise.NewStreams(s, 1)})
			require.EqualError(t, err, c.want)
			require.Nil(t, x)
			return nil
		}))
	}
	// Noise is added between steps, and at a last level above ε, not in one step to 0.
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2, 1)
		for _, levels := range [][]float64{{80, 1, 0}, {80, 1}} {
			_, err := Multistep{}.Sample(t.Context(), s, modelstest.Gaussian{}, x, Options{Levels: levels})
			require.ErrorContains(t, err, "want a random stream for each of 2 images, got 0")
		}
		_, err := Multistep{}.Sample(t.Context(), s, modelstest.Gaussian{}, x, Options{Levels: []float64{80, 0}})
		require.NoError(t, err)
		return nil
	}))
}

// The three kinds of models are sampled from by methods of one shape.
type sampler[M any] interface {
	Sample(ctx context.Context, s *torch.Scope, model M, x *torch.Tensor, o Options) (*torch.Tensor, error)
	Evaluations(levels []float64) int
}

var (
	_ sampler[models.Denoiser]            = Sampler(nil)
	_ sampler[models.ConsistencyFunction] = Multistep{}
	_ sampler[models.Jumper]              = Jumps{}
)

// A cancelled call stops before the next evaluation; a function that fails ends it. Neither leaves anything behind.
func TestMultistepStops(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		o := Options{Levels: []float64{80, 5, 0.8, 0}, Streams: noise.NewStreams(s, 1)}
		start := torch.Ones(s, torch.Float32, 1, 4)
		before := torch.Live()
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		f := spy{modelstest.Gaussian{}, func(_ *torch.Scope, _, _, _ *torch.Tensor) {
			if calls++; calls == 2 {
				cancel()
			}
		}}
		x, err := Multistep{}.Sample(ctx, s, f, start, o)
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, x)
		require.Equal(t, 2, calls)
		require.Equal(t, before, torch.Live())

		f.see = func(s *torch.Scope, x, _, _ *torch.Tensor) { x.Reshape(s, 7) }
		x, err = Multistep{}.Sample(t.Context(), s, f, start, o)
		var e *torch.Error
		require.ErrorAs(t, err, &e)
		require.Nil(t, x)
		require.Equal(t, before, torch.Live())
		return nil
	}))
}
