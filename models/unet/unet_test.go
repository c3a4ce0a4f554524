package unet

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
)

// tiny is a network that tests can afford.
var tiny = Config{Resolution: 8, Channels: 16, Mult: []int{1, 2}, Blocks: 1, Attention: []int{4}, NormGroups: 4}

func build(t *testing.T, c Config) *UNet {
	t.Helper()
	net, err := New(c, torch.CPU, 1)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	return net
}

func TestConformance(t *testing.T) {
	song := DDPMPP(12, 2, 16, []int{1, 2}, 1, 6)
	song.Dropout = 0.2
	adm := ADM(8, 3, 32, []int{1, 2}, 1, 8)
	adm.Classes, adm.HeadDim, adm.OutChannels = 4, 16, 6
	ddpm := tiny
	ddpm.Resample, ddpm.PadAfter, ddpm.Classes, ddpm.Dropout = ResampleConv, true, 3, 0.1
	fourier := Config{Resolution: 14, InChannels: 1, Channels: 8, Mult: []int{1, 1}, Blocks: 2, Embedding: Fourier, FourierScale: 0.5, NoMidAttention: true}
	for _, c := range []struct {
		name   string
		config Config
	}{{"ddpm++", song}, {"adm", adm}, {"ddpm", ddpm}, {"fourier", fourier}} {
		t.Run(c.name, func(t *testing.T) {
			full := c.config.WithDefaults()
			expect := modelstest.Expect{
				Shape: []int{full.InChannels, full.Resolution, full.Resolution}, Out: full.OutChannels, Classes: full.Classes, Dropout: full.Dropout > 0,
			}
			net := build(t, c.config)
			modelstest.Network(t, net, expect)
			if full.OutChannels == full.InChannels {
				modelstest.Consistency(t, &models.Consistency{Net: net}, 0.002, expect)
				modelstest.Consistency(t, &models.Consistency{Net: net, Boundary: models.AtZero}, 0, expect)
			}
		})
	}
}

// Initial weights are a function of the seed, and leave the network's output near zero: a consistency function starts as
// c_skip·x.
func TestInitialWeights(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		weights := func(seed uint64) []float32 {
			net, err := New(tiny, torch.CPU, seed)
			require.NoError(t, err)
			defer net.Close()
			var all []float32
			for _, p := range net.Tensors() {
				all = append(all, torch.ToSlice[float32](p.Detach(s))...)
			}
			return all
		}
		require.Equal(t, weights(3), weights(3))
		require.NotEqual(t, weights(3), weights(4))

		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 8, 8)
		y := build(t, tiny).Forward(s, x, torch.Zeros(s, torch.Float32, 2), models.Cond{})
		require.Less(t, y.Abs(s).Max(s).Item(), 0.01)
		return nil
	}))
}

// A clone computes the same, has weights of its own, and collects no gradients.
func TestClone(t *testing.T) {
	c := tiny
	c.Embedding = Fourier // whose frequencies have to come along
	net := build(t, c)
	twin, err := net.Clone()
	require.NoError(t, err)
	defer twin.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, at := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 8, 8), torch.Zeros(s, torch.Float32, 2)
		want := torch.ToSlice[float32](net.Forward(s, x, at, models.Cond{}))
		got := twin.Forward(s, x, at, models.Cond{})
		require.False(t, got.RequiresGrad())
		require.Equal(t, want, torch.ToSlice[float32](got))
		return s.NoGrad(func(s *torch.Scope) error {
			for _, p := range net.Parameters() {
				p.FillInPlace(s, 0)
			}
			require.Equal(t, want, torch.ToSlice[float32](twin.Forward(s, x, at, models.Cond{})))
			return nil
		})
	}))
	e, err := models.NewEMA(twin.Parameters(), net.Parameters())
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		e.Update(s, 0)
		for _, p := range twin.Parameters() {
			require.Zero(t, p.Abs(s).Max(s).Item())
		}
		return nil
	}))
}

// In float64 the network computes in float64: its result differs from float32's by rounding, not more and not less.
func TestFloat64(t *testing.T) {
	net, err := NewAs(tiny, torch.CPU, torch.Float64, 1)
	require.NoError(t, err)
	defer net.Close()
	single := build(t, tiny)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, at := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 2, 3, 8, 8), torch.Full(s, 0.7, torch.Float64, 2)
		y := net.Forward(s, x, at, models.Cond{})
		require.Equal(t, torch.Float64, y.DType())
		z := single.Forward(s, x.To(s, torch.Float32), at.To(s, torch.Float32), models.Cond{}).To(s, torch.Float64)
		d := y.Sub(s, z).Abs(s).Max(s).Item() / y.Abs(s).Max(s).Item()
		require.Greater(t, d, 1e-9)
		require.Less(t, d, 1e-5)
		return nil
	}))
}

// What does not fit is an error that names it.
func TestForwardErrors(t *testing.T) {
	c := tiny
	c.Classes = 3
	for _, tc := range []struct {
		name   string
		config Config
		x      []int
		labels []int64
		want   string
	}{
		{"no class", c, []int{2, 3, 8, 8}, nil, "needs a class"},
		{"a class too many", tiny, []int{2, 3, 8, 8}, []int64{0, 1}, "has no classes"},
		{"class out of range", c, []int{2, 3, 8, 8}, []int64{0, 3}, "index out of range"},
		{"channels", tiny, []int{2, 4, 8, 8}, nil, "float32[2, 4, 8, 8]"},
		{"odd size", tiny, []int{2, 3, 7, 7}, nil, "cat"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			net := build(t, tc.config)
			err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				var cond models.Cond
				if tc.labels != nil {
					cond.Class = torch.FromSlice(s, tc.labels)
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
