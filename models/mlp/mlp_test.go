package mlp

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func build(t *testing.T, c Config) *MLP {
	t.Helper()
	net, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	return net
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
	}{
		{"points", Config{}},
		{"a number", Config{Shape: []int{1}, Depth: 1, Width: 16, NoiseFreqs: 2, Classes: 5}},
		{"gray", Config{Shape: []int{1, 5, 5}, Width: 32, Dropout: 0.2, Until: true}},
		{"rgb", Config{Shape: []int{3, 4, 2}, Width: 32, Freqs: 1, Classes: 3, Until: true, Guidance: true, Dropout: 0.1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			full := c.config.WithDefaults()
			expect := modelstest.Expect{
				Shape: full.Shape, Classes: full.Classes, Until: full.Until, Guidance: full.Guidance, Dropout: full.Dropout > 0,
				NoClass: full.Classes > 0, Initial: 0.01,
			}
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				net := modelstest.Network(t, dev, func(dev torch.Device, dtype torch.DType, seed uint64) (*MLP, error) {
					return New(c.config, dev, dtype, seed)
				}, expect)
				modelstest.Consistency(t, dev, &models.Consistency{Net: net}, 0.002, expect)
				modelstest.Consistency(t, dev, &models.Consistency{Net: net, Boundary: models.AtZero}, 0, expect)
			})
		})
	}
}

// randomize gives every parameter values that let signals through: the last layer starts near zero.
func randomize(s *torch.Scope, params iter.Seq2[string, *torch.Tensor]) {
	g := torch.NewGenerator(s, 7)
	_ = s.NoGrad(func(s *torch.Scope) error {
		for _, p := range params {
			p.AddInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...).MulScalar(s, 0.1).To(s, p.DType()))
		}
		return nil
	})
}

// A clone's configuration is its own.
func TestClone(t *testing.T) {
	shape := []int{1, 3, 3}
	net := build(t, Config{Shape: shape, Width: 16})
	twin, err := net.Clone()
	require.NoError(t, err)
	defer twin.Close()
	shape[0] = 7
	net.Config().Shape[0] = 7
	require.Equal(t, []int{1, 3, 3}, twin.Config().Shape)
	require.Equal(t, []int{1, 3, 3}, net.Config().Shape)
}

// Labels of another scale are brought to this one: 250·ln(t) at 0.001 is ln(t)/4. Guidance is not scaled.
func TestNoiseScale(t *testing.T) {
	c := Config{Until: true, Guidance: true}
	plain := build(t, c)
	c.NoiseScale = 0.001
	scaled := build(t, c)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		randomize(s, plain.Parameters())
		require.NoError(t, scaled.Load(plain.Tensors()))
		g := torch.NewGenerator(s, 1)
		x := torch.Randn(s, g, torch.Float32, 4, 2)
		noise, until := torch.Randn(s, g, torch.Float32, 4), torch.Randn(s, g, torch.Float32, 4)
		want := plain.Forward(s, x, noise, models.Cond{Until: until, Guidance: noise})
		got := scaled.Forward(s, x, noise.MulScalar(s, 1000), models.Cond{Until: until.MulScalar(s, 1000), Guidance: noise})
		require.Less(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-5)
		return nil
	}))
}

// Points around the nine places of a grid, drawn as the EDM paper draws them (Karras et al. 2022, table 1): the best linear
// denoiser has a loss of 1, the exact one 0.886.
func TestLearnsAGrid(t *testing.T) {
	net := build(t, Config{})
	opt, err := optim.Adam{LR: 3e-3}.New(net.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		const batch, steps, sd = 256, 300, 0.5
		normal := func(s *torch.Scope, shape ...int) *torch.Tensor { return torch.Randn(s, g, torch.Float32, shape...) }
		mean := 0.0
		for step := range steps {
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				y := torch.Randint(s, g, -1, 2, torch.Float32, batch, 2).MulScalar(s, 0.6).Add(s, normal(s, batch, 2).MulScalar(s, 0.1))
				logT := normal(s, batch).MulScalar(s, 1.2).SubScalar(s, 1.2)
				level := logT.Exp(s).PerSample(s, 2)
				x := y.Add(s, level.Mul(s, normal(s, batch, 2)))
				// The loss in the units of F: its target is (y - c_skip·x)/c_out.
				root := level.Square(s).AddScalar(s, sd*sd).Sqrt(s)
				skip := root.Square(s).Reciprocal(s).MulScalar(s, sd*sd)
				target := y.Sub(s, x.Mul(s, skip)).Mul(s, root).Div(s, level.MulScalar(s, sd))
				loss := net.Forward(s, x.Div(s, root), logT.MulScalar(s, 0.25), models.Cond{}).Sub(s, target).Square(s).Mean(s)
				loss.Backward()
				if step >= steps/2 {
					mean += loss.Item() / (steps / 2)
				}
				opt.Step(s)
				opt.ZeroGrad()
				return nil
			}))
		}
		t.Logf("loss %.3f", mean)
		require.Less(t, mean, 0.92)
		return nil
	}))
}

// What does not fit is an error that names it.
func TestForwardErrors(t *testing.T) {
	class := func(s *torch.Scope) models.Cond { return models.Cond{Class: torch.FromSlice(s, []int64{0, 1})} }
	until := func(s *torch.Scope) models.Cond { return models.Cond{Until: torch.Zeros(s, torch.Float32, 2)} }
	guidance := func(s *torch.Scope) models.Cond { return models.Cond{Guidance: torch.Zeros(s, torch.Float32, 2)} }
	points := []int{2, 2}
	for _, tc := range []struct {
		name   string
		config Config
		x      []int
		cond   func(s *torch.Scope) models.Cond
		want   string
	}{
		{"no class", Config{Classes: 3}, points, nil, "needs a class (Cond.Class) for each sample, or 3 for"},
		{"a class too many", Config{}, points, class, "Cond.Class"},
		{"no until", Config{Until: true}, points, nil, "needs the end of a jump (Cond.Until) for each sample"},
		{"until too many", Config{}, points, until, "does not take the end of a jump (Cond.Until)"},
		{"no guidance", Config{Guidance: true}, points, nil, "needs a guidance scale (Cond.Guidance) for each sample"},
		{"guidance too many", Config{}, points, guidance, "does not take a guidance scale"},
		{"elements", Config{}, []int{2, 3}, nil, "samples of shape [2], got [2 3]"},
		{"an image", Config{}, []int{2, 2, 1, 1}, nil, "samples of shape [2], got [2 2 1 1]"},
		{"another image", Config{Shape: []int{1, 4, 4}}, []int{2, 1, 2, 8}, nil, "samples of shape [1 4 4], got [2 1 2 8]"},
		{"no batch", Config{}, []int{}, nil, "samples of shape [2], got []"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			net := build(t, tc.config)
			err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				var cond models.Cond
				if tc.cond != nil {
					cond = tc.cond(s)
				}
				net.Forward(s, torch.Zeros(s, torch.Float32, tc.x...), torch.Zeros(s, torch.Float32, 2), cond)
				return nil
			})
			var e *torch.Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		want   string // part of the error; "": none
	}{
		{"zero value", Config{}, ""},
		{"image", Config{Shape: []int{3, 14, 14}}, ""},
		{"no dimension", Config{Shape: []int{}}, "dimensions of a sample (the length of shape): want 1 to 3, got 0"},
		{"two dimensions", Config{Shape: []int{14, 14}}, "[elements] or [channels, height, width], got [14 14]"},
		{"a batch", Config{Shape: []int{8, 3, 14, 14}}, "dimensions of a sample"},
		{"empty", Config{Shape: []int{0}}, "shape: want 1 to 65536, got 0"},
		{"width", Config{Width: -1}, "width: want 1 to 65536, got -1"},
		{"depth", Config{Depth: 100}, "depth: want 1 to 64, got 100"},
		{"freqs", Config{Freqs: 17}, "freqs: want 1 to 16, got 17"},
		{"noise freqs", Config{NoiseFreqs: -1}, "noise_freqs: want 1 to 16, got -1"},
		{"noise scale", Config{NoiseScale: math.NaN()}, "noise_scale: want a positive number"},
		{"classes", Config{Classes: -1}, "classes"},
		{"dropout", Config{Dropout: 1}, "dropout: want a probability in [0, 1), got 1"},
		{"a vast image", Config{Shape: []int{1 << 16, 1 << 16, 1 << 16}}, "has 281474976710656 elements, the limit is 4194304"},
		{"wide", Config{Width: 1 << 16}, "weights, the limit is 1073741824"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.config.WithDefaults().Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			_, err = New(c.config, torch.CPU, torch.Float32, 1)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// A configuration survives JSON, and its defaults are stable.
func TestConfigJSON(t *testing.T) {
	c := Config{
		Shape: []int{3, 4, 5}, Width: 16, Depth: 2, Freqs: 5, NoiseFreqs: 2, NoiseScale: 0.5, Classes: 4, Until: true, Guidance: true,
		Dropout: 0.3,
	}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	var got Config
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&got))
	require.Equal(t, c, got)
	require.Equal(t, c, c.WithDefaults(), "nothing was left at zero")
	require.Equal(t, Config{}.WithDefaults(), Config{}.WithDefaults().WithDefaults())
}

// A plan lists what the network then has.
func TestShapes(t *testing.T) {
	c := Config{Shape: []int{2, 3, 3}, Classes: 3, Until: true, Guidance: true}
	net := build(t, c)
	i, shapes := 0, c.Shapes()
	for name, p := range net.Tensors() {
		require.Equal(t, name, shapes[i].Name)
		require.Equal(t, p.Shape(), shapes[i].Dims, name)
		i++
	}
	require.Len(t, shapes, i)
	require.Equal(t, net.Store().Count(), c.Count())
}
