package models

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// posteriorMean is the sum written out: over the data of that class, or all of a negative one.
func posteriorMean(data [][]float64, labels []int64, class int64, x []float64, t float64) []float64 {
	exponents, top := make([]float64, len(data)), math.Inf(-1)
	for i, y := range data {
		if class >= 0 && labels[i] != class {
			exponents[i] = math.Inf(-1)
			continue
		}
		for j := range y {
			exponents[i] -= (x[j] - y[j]) * (x[j] - y[j]) / (2 * t * t)
		}
		top = max(top, exponents[i])
	}
	mean, weight := make([]float64, len(x)), 0.0
	for i, y := range data {
		w := math.Exp(exponents[i] - top)
		weight += w
		for j := range y {
			mean[j] += w * y[j]
		}
	}
	for j := range mean {
		mean[j] /= weight
	}
	return mean
}

func rows(s *torch.Scope, x *torch.Tensor) [][]float64 {
	var out [][]float64
	width := x.NumEl() / x.Dim(0)
	all := torch.ToSlice[float64](x.To(s, torch.Float64).Contiguous(s))
	for ; len(all) > 0; all = all[width:] {
		out = append(out, all[:width])
	}
	return out
}

// Against the sum written out, for all types, parts of any size, with classes and without, from levels where one image is all
// there is to those where none stands out. The data are images in [-1, 1] of which some pairs are close: 0.01 in each of 192
// elements, as a difference of squared norms in float32 would hardly see at t = 0.002.
func TestEmpirical(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		half := torch.Rand(s, g, torch.Float32, 50, 3, 8, 8).MulScalar(s, 2).SubScalar(s, 1)
		data := torch.Cat(s, []*torch.Tensor{half, half.Add(s, torch.Randn(s, g, torch.Float32, 50, 3, 8, 8).MulScalar(s, 2e-4))}, 0)
		labels := torch.Randint(s, g, 0, 3, torch.Int64, 100)
		at := []float64{0.0005, 0.002, 0.01, 0.3, 2, 80, 1e4}
		class := []int64{0, 1, 2, -1, 0, 1, 2}
		clean := data.Narrow(s, 0, 47, len(at))
		levels := torch.FromSlice(s, at)
		for _, image := range []torch.DType{torch.Float32, torch.Float64} {
			x := clean.To(s, image).Add(s, torch.Randn(s, g, image, clean.Shape()...).MulPerSample(s, levels))
			for _, chunk := range []int{0, 1, 7, 100, 1000} {
				for _, conditional := range []bool{false, true} {
					d := &Empirical{Data: data, Labels: labels, Chunk: chunk}
					require.NoError(t, d.Validate())
					var c Cond
					of := make([]int64, len(at))
					for i := range of {
						of[i] = -1
					}
					if conditional {
						of, c.Class = class, torch.FromSlice(s, class)
					}
					before := torch.Live()
					y := d.Denoise(s, x, levels, c)
					require.Equal(t, before+1, torch.Live())
					quick := &Empirical{Data: data.To(s, torch.Float64), Labels: labels, Chunk: chunk}
					quick.Prepare(s)
					require.Equal(t, rows(s, y), rows(s, quick.Denoise(s, x, levels, c)), "prepared")
					require.Equal(t, image, y.DType())
					require.Equal(t, x.Shape(), y.Shape())
					got, noisy := rows(s, y), rows(s, x)
					for i, level := range at {
						want := posteriorMean(rows(s, data), torch.ToSlice[int64](labels), of[i], noisy[i], level)
						tolerance := 1e-7 // the result in float32
						if image == torch.Float64 {
							// Exponents are known to 1e-16·|x|·|y|/t².
							tolerance = 1e-12 + 3e-14/(level*level)*min(1, level)
						}
						require.InDeltaSlice(t, want, got[i], tolerance, "%v, chunk %d, level %g", image, chunk, level)
					}
				}
			}
		}
		return nil
	}))
}

// At level 0 the result is the nearest of the data, at a huge one their mean; data twice is data once.
func TestEmpiricalLimits(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		for _, image := range []torch.DType{torch.Float32, torch.Float64} {
			data := torch.Randn(s, g, image, 30, 2)
			twice := torch.Cat(s, []*torch.Tensor{data, data}, 0)
			x := data.Flip(s, 0).AddScalar(s, 1e-4)
			for _, d := range []*Empirical{{Data: data}, {Data: twice}, {Data: twice, Chunk: 4}} {
				requireClose(t, data.Flip(s, 0), d.Denoise(s, x, torch.Zeros(s, image, 30), Cond{}), 1e-15)
				requireClose(t, data.Flip(s, 0), d.Denoise(s, x, torch.Full(s, 1e-12, image, 30), Cond{}), 1e-15)
				far := d.Denoise(s, x.MulScalar(s, 1e9), torch.Full(s, 1e9, image, 30), Cond{})
				requireClose(t, data.MeanDim(s, true, 0).Expand(s, 30, 2), far, 1e-6)
			}
		}
		// One image is always the answer.
		one := &Empirical{Data: torch.Full(s, 0.3, torch.Float64, 1, 2)}
		require.Equal(t, []float64{0.3, 0.3}, torch.ToSlice[float64](one.Denoise(s, torch.Zeros(s, torch.Float64, 1, 2), torch.FromSlice(s, []float64{80}), Cond{})))
		return nil
	}))
}

// Its derivative is the posterior's variance by t², as central differences find it.
func TestEmpiricalDerivative(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		d := &Empirical{Data: torch.Randn(s, g, torch.Float64, 20, 2), Chunk: 6}
		at := torch.FromSlice(s, []float64{0.5})
		x := torch.FromSlice(s, []float64{0.2, -0.1}, 1, 2)
		const h = 1e-5
		step := torch.FromSlice(s, []float64{h, 0}, 1, 2)
		want := d.Denoise(s, x.Add(s, step), at, Cond{}).Sub(s, d.Denoise(s, x.Sub(s, step), at, Cond{})).Sum(s).Item() / (2 * h)
		x.SetRequiresGrad(true)
		d.Denoise(s, x, at, Cond{}).Sum(s).Backward()
		require.InDelta(t, want, torch.ToSlice[float64](x.Grad(s))[0], 1e-7)
		return nil
	}))
}

func TestEmpiricalRefuses(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		data, labels := torch.Zeros(s, torch.Float32, 4, 2), torch.Zeros(s, torch.Int64, 4)
		for _, c := range []struct {
			d    *Empirical
			want string
		}{
			{&Empirical{}, "empirical denoiser: no data"},
			{&Empirical{Data: torch.Zeros(s, torch.Float32, 4)}, "want floating-point data [N, ...] with N at least 1, got float32 [4]"},
			{&Empirical{Data: torch.Zeros(s, torch.Float32, 0, 2)}, "got float32 [0 2]"},
			{&Empirical{Data: torch.Zeros(s, torch.Uint8, 4, 2)}, "got uint8 [4 2]"},
			{&Empirical{Data: data, Chunk: -1}, "got -1"},
			{&Empirical{Data: data, Labels: labels.Narrow(s, 0, 0, 3)}, "want int64 labels [4], got int64 [3]"},
			{&Empirical{Data: data, Labels: torch.Zeros(s, torch.Float32, 4)}, "want int64 labels [4], got float32 [4]"},
		} {
			require.ErrorContains(t, c.d.Validate(), c.want)
		}
		at := torch.Ones(s, torch.Float32, 1)
		class := torch.FromSlice(s, []int64{5})
		for want, f := range map[string]func(){
			"shape [2], got [3]": func() { (&Empirical{Data: data}).Denoise(s, torch.Zeros(s, torch.Float32, 1, 3), at, Cond{}) },
			"the data has no labels": func() {
				(&Empirical{Data: data}).Denoise(s, torch.Zeros(s, torch.Float32, 1, 2), at, Cond{Class: class})
			},
			"no data point": func() {
				(&Empirical{Data: data, Labels: labels}).Denoise(s, torch.Zeros(s, torch.Float32, 1, 2), at, Cond{Class: class})
			},
		} {
			require.ErrorContains(t, torch.Catch(f), want)
		}
		return nil
	}))
}

// A chunk stays below some tens of megabytes, however large the batch, the images and the data.
func TestEmpiricalChunk(t *testing.T) {
	for _, width := range []int{1, 512, 3072, 1 << 25} {
		n := (&Empirical{}).chunk(width)
		require.LessOrEqual(t, n*width*8, max(64<<20, 8*width))
		require.Positive(t, n)
	}
	require.Equal(t, 3, (&Empirical{Chunk: 3}).chunk(1<<30))
}
