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

// One step is the function at noise of deviation 80, from the image's own stream.
func TestOneStep(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := modelstest.Gaussian{Mean: 0.1, Std: 0.4}
		before := torch.Live()
		streams := noise.NewStreams(s, 7, 8)
		got, err := Multistep{}.Sample(t.Context(), s, g, []int{3, 2, 2}, streams, models.Cond{})
		require.NoError(t, err)
		require.Equal(t, before+3, torch.Live(), "two streams and the result")
		require.Equal(t, []int{2, 3, 2, 2}, got.Shape())
		require.False(t, got.RequiresGrad())
		for i, seed := range []uint64{7, 8} {
			z := torch.Randn(s, torch.NewGenerator(s, seed), torch.Float32, 1, 3, 2, 2)
			want := g.Origin(s, z.MulScalar(s, 80), torch.Full(s, 80, torch.Float32, 1), models.Cond{})
			require.Equal(t, want.Bytes(), got.Narrow(s, 0, i, 1).Contiguous(s).Bytes())
		}

		// From another level, noise of that deviation.
		got, err = Multistep{Times: []float64{5}}.Sample(t.Context(), s, g, []int{4}, noise.NewStreams(s, 7), models.Cond{})
		require.NoError(t, err)
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
		m := Multistep{Times: []float64{80, 3, 0.8}, SigmaMin: eps}
		var noises []*torch.Tensor
		var last *torch.Tensor
		f := spy{g, func(_ *torch.Scope, x, at, origin *torch.Tensor) {
			level := m.Times[len(noises)]
			require.Equal(t, []float32{float32(level), float32(level)}, torch.ToSlice[float32](at))
			z := x.DivScalar(s, level)
			if last != nil {
				z = x.Sub(s, last).DivScalar(s, math.Sqrt(level*level-eps*eps))
			}
			noises, last = append(noises, z), origin.Clone(s)
		}}
		got, err := m.Sample(t.Context(), s, f, []int{n}, noise.NewStreams(s, 1, 2), models.Cond{})
		require.NoError(t, err)
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
			check := func(times []float64, mean, dev float64) {
				x, err := Multistep{Times: times, SigmaMin: c.g.SigmaMin}.Sample(t.Context(), s, c.g, []int{n}, noise.NewStreams(s, 3), models.Cond{})
				require.NoError(t, err)
				x = x.To(s, torch.Float64)
				require.InDelta(t, mean, x.Mean(s).Item(), 4*dev/math.Sqrt(n), "mean at %v", times)
				require.InDelta(t, dev, x.Std(s, 0).Item(), 4*dev/math.Sqrt(2*n), "deviation at %v", times)
			}
			dev := 80 * a(80)
			check(nil, c.g.Mean*(1-a(80)), dev)
			check([]float64{80, c.at}, c.g.Mean*(1-a(80)*a(c.at)), a(c.at)*math.Sqrt(dev*dev+c.at*c.at-eps*eps))
		}
		return nil
	}))
}

// Each result but the last is limited before noise is added.
func TestMultistepClamps(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var second *torch.Tensor
		f := spy{modelstest.Gaussian{Std: 5}, func(_ *torch.Scope, x, _, _ *torch.Tensor) { second = x.Clone(s) }}
		m := Multistep{Times: []float64{80, 0.01}, Clamp: true}
		x, err := m.Sample(t.Context(), s, f, []int{1000}, noise.NewStreams(s, 1), models.Cond{})
		require.NoError(t, err)
		require.Less(t, second.Abs(s).Max(s).Item(), 1.06, "[-1, 1] and some noise of deviation 0.01")
		require.Greater(t, x.Abs(s).Max(s).Item(), 1.0)
		m.Clamp = false
		_, err = m.Sample(t.Context(), s, f, []int{1000}, noise.NewStreams(s, 1), models.Cond{})
		require.NoError(t, err)
		require.Greater(t, second.Abs(s).Max(s).Item(), 10.0)
		return nil
	}))
}

// An image depends on its seed, not on the batch it is drawn in or its place there: in every bit where the function treats
// elements alone, and but for the order of summation in a network.
func TestImagesDoNotDependOnTheBatch(t *testing.T) {
	net, err := unet.New(unet.Config{Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1, 2}, Blocks: 1, NormGroups: 4, HeadDim: 4, Attention: []int{4}}, torch.CPU, 1)
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
			draw := func(m Multistep, seeds ...uint64) *torch.Tensor {
				x, err := m.Sample(t.Context(), s, c.f, []int{1, 8, 8}, noise.NewStreams(s, seeds...), models.Cond{})
				require.NoError(t, err)
				return x
			}
			m := Multistep{Times: []float64{80, 5, 0.8}}
			alone := draw(m, 42)
			require.NotZero(t, alone.Std(s, 0).Item())
			many := draw(m, noise.Seeds(40, 7)...)
			torchtest.Close(t, c.name+" third of seven", many.Narrow(s, 0, 2, 1).Contiguous(s), alone, c.tol, 0)
			require.Greater(t, many.Narrow(s, 0, 1, 1).Sub(s, alone).Abs(s).Max(s).Item(), 0.1, "another seed is another image")
			twice := draw(m, 9, 42, 42)
			torchtest.Close(t, c.name+" twice in a batch", twice.Narrow(s, 0, 1, 1).Contiguous(s), twice.Narrow(s, 0, 2, 1).Contiguous(s), c.tol, 0)
			require.Equal(t, alone.Bytes(), draw(m, 42).Bytes(), "the same call twice")
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
		_, err := Multistep{Times: Times(20)}.Sample(t.Context(), s, f, []int{4}, noise.NewStreams(s, 1, 2), models.Cond{})
		require.NoError(t, err)
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
		_, err := Multistep{Times: []float64{80, 1}}.Sample(t.Context(), s, f, []int{2}, noise.NewStreams(s, 1, 2), models.Cond{Class: class})
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

func TestTimes(t *testing.T) {
	require.Equal(t, []float64{80}, Times(1))
	require.Equal(t, []float64{80, 0.8}, Times(2))
	for n := 1; n < 50; n++ {
		times := Times(n)
		require.Len(t, times, n)
		require.Equal(t, 80.0, times[0])
		require.NoError(t, Multistep{Times: times}.Validate(), "%d steps", n)
	}
	// The three largest of four levels from 0.002 to 80 with ρ = 7.
	require.InDeltaSlice(t, []float64{80, 9.7232, 0.46998}, Times(3), 1e-4)
}

func TestSeeds(t *testing.T) {
	require.Equal(t, []uint64{41, 42, 43}, noise.Seeds(41, 3))
	require.Empty(t, noise.Seeds(1, 0))
}

func TestMultistepValidate(t *testing.T) {
	for _, c := range []struct {
		m    Multistep
		want string // "": fine
	}{
		{Multistep{}, ""},
		{Multistep{Times: []float64{0.5}}, ""},
		{Multistep{Times: []float64{80, 24.4, 5.84, 0.9}}, ""},
		{Multistep{Times: []float64{}}, "noise levels: want at least one"},
		{Multistep{Times: []float64{0.8, 80}}, "noise levels: want them largest first, got 80 after 0.8"},
		{Multistep{Times: []float64{80, 80}}, "noise levels: want them largest first, got 80 after 80"},
		{Multistep{Times: []float64{80, math.NaN()}}, "noise levels: want numbers from 0 to 1e6, got NaN"},
		{Multistep{Times: []float64{math.Inf(1)}}, "noise levels: want numbers from 0 to 1e6, got +Inf"},
		{Multistep{Times: []float64{80, -1}}, "noise levels: want numbers from 0 to 1e6, got -1"},
		{Multistep{Times: []float64{80, 0.002}}, "noise levels: want all above the smallest level 0.002, got 0.002"},
		{Multistep{Times: []float64{80, 0}}, "noise levels: want all above the smallest level 0.002, got 0"},
		{Multistep{Times: []float64{80, 0.4}, SigmaMin: 0.5}, "noise levels: want all above the smallest level 0.5, got 0.4"},
		{Multistep{SigmaMin: -0.1}, "smallest noise level: want more than 0, got -0.1"},
		{Multistep{SigmaMin: math.NaN()}, "smallest noise level: want more than 0, got NaN"},
	} {
		err := c.m.Validate()
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, c.want)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x, err := c.m.Sample(t.Context(), s, modelstest.Gaussian{}, []int{1}, noise.NewStreams(s, 1), models.Cond{})
			require.EqualError(t, err, c.want)
			require.Nil(t, x)
			return nil
		}))
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, err := Multistep{}.Sample(t.Context(), s, modelstest.Gaussian{}, []int{1, 2, 2}, nil, models.Cond{})
		require.EqualError(t, err, "sampling: want at least one random stream, one for each image")
		return nil
	}))
}

// A cancelled call stops before the next evaluation; a function that fails ends it. Neither leaves anything behind.
func TestMultistepStops(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		streams := noise.NewStreams(s, 1)
		before := torch.Live()
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		f := spy{modelstest.Gaussian{}, func(_ *torch.Scope, _, _, _ *torch.Tensor) {
			if calls++; calls == 2 {
				cancel()
			}
		}}
		x, err := Multistep{Times: []float64{80, 5, 0.8}}.Sample(ctx, s, f, []int{4}, streams, models.Cond{})
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, x)
		require.Equal(t, 2, calls)
		require.Equal(t, before, torch.Live())

		f.see = func(s *torch.Scope, x, _, _ *torch.Tensor) { x.Reshape(s, 7) }
		x, err = Multistep{}.Sample(t.Context(), s, f, []int{4}, streams, models.Cond{})
		var e *torch.Error
		require.ErrorAs(t, err, &e)
		require.Nil(t, x)
		require.Equal(t, before, torch.Live())
		return nil
	}))
}
