package models

import (
	"iter"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// linear is the network F(x, noise) = A·x + noise, simple enough to compute with by hand.
type linear struct{ A float64 }

func (l linear) Forward(s *torch.Scope, x, noise *torch.Tensor, _ Cond) *torch.Tensor {
	return x.MulScalar(s, l.A).Add(s, noise.To(s, x.DType()).PerSample(s, x.NDim()))
}

func (linear) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

var levels = []float64{0.002, 0.0075, 0.4, 0.821, 5.315, 80}

// The formulas, written out in Go's float64, for every form and noise label.
func TestPreconditioning(t *testing.T) {
	const x, a = -1.25, 0.75
	for _, c := range []struct {
		name    string
		f       func(net Network, s *torch.Scope, x, t *torch.Tensor) *torch.Tensor
		sd, eps float64
		label   float64 // factor of ln(t)
	}{
		{"boundary at ε", func(net Network, s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Consistency{Net: net}).Origin(s, x, t, Cond{})
		}, 0.5, 0.002, 0.25},
		{"another ε and σ", func(net Network, s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Consistency{Net: net, SigmaMin: 0.003, SigmaData: 0.7, Noise: ScaledLog}).Origin(s, x, t, Cond{})
		}, 0.7, 0.003, 250},
		{"boundary at 0", func(net Network, s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&Consistency{Net: net, Boundary: AtZero}).Origin(s, x, t, Cond{})
		}, 0.5, 0, 0.25},
		{"denoiser", func(net Network, s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&EDM{Net: net}).Denoise(s, x, t, Cond{})
		}, 0.5, 0, 0.25},
		{"denoiser, another σ", func(net Network, s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return (&EDM{Net: net, SigmaData: 0.66, Noise: ScaledLog}).Denoise(s, x, t, Cond{})
		}, 0.66, 0, 250},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := make([]float64, len(levels))
			for i, t := range levels {
				root := math.Sqrt(t*t + c.sd*c.sd)
				skip := c.sd * c.sd / ((t-c.eps)*(t-c.eps) + c.sd*c.sd)
				out := c.sd * (t - c.eps) / root
				want[i] = skip*x + out*(a*x/root+c.label*math.Log(t))
			}
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				run := func(image, level torch.DType) []float64 {
					in := torch.Full(s, x, image, len(levels), 2, 3, 1)
					got := c.f(linear{a}, s, in, torch.FromSlice(s, levels).To(s, level))
					require.Equal(t, image, got.DType())
					require.Equal(t, in.Shape(), got.Shape())
					return torch.ToSlice[float64](got.Select(s, 1, 1).Select(s, 1, 2).Select(s, 1, 0).To(s, torch.Float64))
				}
				require.InDeltaSlice(t, want, run(torch.Float64, torch.Float64), 1e-12*(1+c.label))
				require.InDeltaSlice(t, want, run(torch.Float32, torch.Float32), 1e-6*(1+c.label))
				require.InDeltaSlice(t, want, run(torch.Float32, torch.Float64), 1e-6*(1+c.label))
				return nil
			}))
		})
	}
}

// A few values of the coefficients themselves, from the formulas by hand: what a slip in one of them would change.
func TestCoefficients(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		at := func(boundary Boundary, t float64) (skip, out float64) {
			f := func(x float64, net Network) float64 {
				return (&Consistency{Net: net, Boundary: boundary}).Origin(s, torch.FromSlice(s, []float64{x}), torch.FromSlice(s, []float64{t}), Cond{}).Item()
			}
			return f(1, constant(0)), f(0, constant(1))
		}
		skip, out := at(AtSigmaMin, 0.502)
		require.InDelta(t, 0.5, skip, 1e-15)
		require.InDelta(t, 0.25/math.Sqrt(0.502*0.502+0.25), out, 1e-15) // t, not t-ε, in the root
		skip, out = at(AtZero, 0.5)
		require.InDelta(t, 0.5, skip, 1e-15)
		require.InDelta(t, 0.25/math.Sqrt(0.5), out, 1e-15)
		skip, out = at(AtZero, 0.002)
		require.InDelta(t, 0.99998400, skip, 1e-8, "the form of EDM is not the identity at ε")
		require.InDelta(t, 0.00199998, out, 1e-8)
		return nil
	}))
}

// constant is the network F = c.
type constant float64

func (c constant) Forward(s *torch.Scope, x, _ *torch.Tensor, _ Cond) *torch.Tensor {
	return torch.Full(s, float64(c), x.DType(), x.Shape()...)
}

func (constant) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// f(x, ε) = x in every bit, whatever the type of the levels, and where σ_data's square is no binary fraction.
func TestBoundaryIsExact(t *testing.T) {
	for _, f := range []*Consistency{
		{Net: linear{3}},
		{Net: linear{3}, SigmaData: 0.7, SigmaMin: 0.003, Noise: ScaledLog},
		{Net: linear{3}, SigmaData: 0.3, SigmaMin: 0.05},
		{Net: linear{3}, SigmaData: 0.7, Boundary: AtZero},
		{Net: linear{3}, Boundary: AtZero, Noise: ScaledLog},
	} {
		for _, image := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16, torch.Float16} {
			for _, level := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16, torch.Float16} {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 64, 3).To(s, image)
					eps := f.SigmaMinimum()
					if f.Boundary == AtZero {
						eps = 0
					}
					y := f.Origin(s, x, torch.Full(s, eps, level, 64), Cond{})
					require.Equal(t, x.Bytes(), y.Bytes(), "%+v, %v image, %v levels", *f, image, level)
					return nil
				}))
			}
		}
	}
}

// Origin leaves one tensor in the caller's scope and passes gradients to the image.
func TestOriginTidiesUp(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float64, 2, 1, 2, 2)
		x.SetRequiresGrad(true)
		at := torch.FromSlice(s, []float64{0.5, 80})
		before := torch.Live()
		y := (&Consistency{Net: linear{2}, Boundary: AtZero}).Origin(s, x, at, Cond{})
		require.Equal(t, before+1, torch.Live())
		y.Sum(s).Backward()
		// df/dx = c_skip + 2·c_out·c_in
		want := func(t float64) float64 { v := t*t + 0.25; return 0.25/v + 2*0.5*t/v }
		g := torch.ToSlice[float64](x.Grad(s))
		require.InDelta(t, want(0.5), g[0], 1e-14)
		require.InDelta(t, want(80), g[7], 1e-14)
		return nil
	}))
}

// The levels of Karras's grid with 18 steps, computed once by another program to 4 digits.
func TestKarras(t *testing.T) {
	got := noise.Karras(18, 0.002, 80, 7)
	require.Len(t, got, 18)
	require.True(t, slices.IsSorted(got))
	require.Equal(t, 0.002, got[0])
	require.Equal(t, 80.0, got[17])
	want := []float64{80, 57.59, 40.79, 28.37, 19.35, 12.91, 8.40, 5.315, 3.257, 1.923, 1.088, .585, .296, .1395, .0599, .0229, .0075, .002}
	slices.Reverse(want)
	for i := range want {
		require.InEpsilon(t, want[i], got[i], 0.01, "level %d", i)
	}
	// The second levels of published two-step samples, by their index from above (Song et al. 2023, released code).
	for _, c := range []struct {
		n, index int
		want     float64
	}{
		{40, 22, 1.382}, {40, 17, 4.366}, {40, 18, 3.520}, {201, 106, 1.913}, {151, 67, 3.991}, {151, 62, 5.249}, {18, 11, 0.5853},
	} {
		require.InEpsilon(t, c.want, noise.Karras(c.n, 0.002, 80, 7)[c.n-1-c.index], 5e-4, "%d of %d", c.index, c.n)
	}
	require.Equal(t, []float64{0.002, 80}, noise.Karras(2, 0.002, 80, 7))
	// ρ = 1 is an even grid.
	require.InDeltaSlice(t, []float64{1, 2, 3, 4, 5}, noise.Karras(5, 1, 5, 1), 1e-14)
}

// witness is a network that keeps what it was told besides the image.
type witness struct {
	noise []float64
	cond  Cond
}

func (w *witness) Forward(s *torch.Scope, x, noise *torch.Tensor, c Cond) *torch.Tensor {
	w.noise, w.cond = torch.ToSlice[float64](noise), c
	return x.MulScalar(s, 1)
}

func (*witness) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// The network is told the level in the two published forms, finite even at 0, and the caller's class and dropout seed.
func TestNetworkIsTold(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		at := torch.FromSlice(s, []float64{80, 1, 0.002, 0})
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 4, 2)
		cond := Cond{Class: torch.FromSlice(s, []int64{3, 1, 4, 1}), Dropout: DropoutFrom(2)}
		for _, c := range []struct {
			form NoiseEmbedding
			want []float64
		}{
			{ScaledLog, []float64{1095.5066, 0, -1553.6520}},
			{QuarterLog, []float64{1.0955066, 0, -1.5536520}},
		} {
			w := &witness{}
			y := (&Consistency{Net: w, Boundary: AtZero, Noise: c.form}).Origin(s, x, at, cond)
			require.InDeltaSlice(t, c.want, w.noise[:3], 1e-4)
			require.False(t, math.IsInf(w.noise[3], 0), "level 0")
			require.Equal(t, 1, y.IsFinite(s).All(s).Int())
			require.Equal(t, cond, w.cond)
		}
		return nil
	}))
}
