package models

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// classified is a denoiser whose prediction is class + 1 in every element, plus t and Until; it counts its calls.
type classified struct {
	calls, rows int
	guidance    *torch.Tensor
}

func (d *classified) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	d.calls++
	d.rows += x.Dim(0)
	d.guidance = c.Guidance
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		v := c.Class.To(s, x.DType()).AddScalar(s, 1).Add(s, t.To(s, x.DType()))
		if c.Until != nil {
			v = v.Add(s, c.Until.To(s, x.DType()))
		}
		return x.MulScalar(s, 0).Add(s, v.PerSample(s, x.NDim()))
	})
}

func TestGuided(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 3, 2, 2)
		at := torch.FromSlice(s, []float64{1, 2, 3})
		class := torch.FromSlice(s, []int64{0, 5, 9})
		first := func(y *torch.Tensor) []float32 {
			return torch.ToSlice[float32](y.Select(s, 1, 1).Select(s, 1, 0).Contiguous(s))
		}
		// D_class is class + 1 + t: 2, 8, 13; D_∅, of the label 10, is 11 + t: 12, 13, 14.
		for _, c := range []struct {
			scale    float64
			guidance []float64
			want     []float32
			rows     int
		}{
			{0, nil, []float32{2, 8, 13}, 3},
			{1, nil, []float32{2, 8, 13}, 3},
			{3, nil, []float32{12 - 30, 13 - 15, 14 - 3}, 6},
			{-1, nil, []float32{22, 18, 15}, 6},
			{3, []float64{0, 1, 2}, []float32{12, 8, 12}, 6}, // each sample's own
			{0, []float64{0, 0, 0}, []float32{12, 13, 14}, 6},
		} {
			d := &classified{}
			g := &Guided{Model: d, Null: Cond{Class: torch.FromSlice(s, []int64{10})}, Scale: c.scale}
			require.NoError(t, g.Validate())
			cond := Cond{Class: class}
			if c.guidance != nil {
				cond.Guidance = torch.FromSlice(s, c.guidance)
			}
			before := torch.Live()
			y := g.Denoise(s, x, at, cond)
			require.Equal(t, before+1, torch.Live())
			require.Equal(t, torch.Float32, y.DType())
			require.Equal(t, x.Shape(), y.Shape())
			require.Equal(t, c.want, first(y), "%+v", c)
			require.Equal(t, 1, d.calls)
			require.Equal(t, c.rows, d.rows)
			require.Nil(t, d.guidance, "the model must not be told a scale that is applied here")
		}
		y := (&Guided{Model: &classified{}, Null: Cond{Class: torch.FromSlice(s, []int64{10})}, Scale: 2}).Denoise(s, x, at, Cond{Class: class, Until: torch.FromSlice(s, []float64{7, 7, 7})})
		require.Equal(t, []float32{12 - 20 + 7, 13 - 10 + 7, 14 - 2 + 7}, first(y), "a second time goes to both")
		err := torch.Catch(func() { (&Guided{Model: &classified{}, Null: Cond{Class: class}, Scale: 2}).Denoise(s, x, at, Cond{}) })
		require.ErrorContains(t, err, "Cond.Class")
		return nil
	}))
}

// Over exact data the guided prediction is the formula of two exact ones.
func TestGuidedEmpirical(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		d := &Empirical{Data: torch.Randn(s, g, torch.Float64, 40, 3), Labels: torch.Randint(s, g, 0, 4, torch.Int64, 40)}
		x, at := torch.Randn(s, g, torch.Float64, 2, 3), torch.FromSlice(s, []float64{0.7, 2})
		class := torch.FromSlice(s, []int64{3, 0})
		with, without := d.Denoise(s, x, at, Cond{Class: class}), d.Denoise(s, x, at, Cond{})
		want := without.Add(s, with.Sub(s, without).MulScalar(s, 2.5))
		requireClose(t, want, (&Guided{Model: d, Null: Cond{Class: torch.FromSlice(s, []int64{-1})}, Scale: 2.5}).Denoise(s, x, at, Cond{Class: class}), 1e-13)
		return nil
	}))
}

// described is a denoiser whose prediction is the sum of each sample's text features, pooled features and residuals.
type described struct{}

func (described) Denoise(s *torch.Scope, x, _ *torch.Tensor, c Cond) *torch.Tensor {
	sum := c.Text.SumDim(s, false, 1, 2).Add(s, c.Pooled.SumDim(s, false, 1)).Add(s, c.Sizes.SumDim(s, false, 1))
	return sum.Add(s, c.Control.Mid.SumDim(s, false, 1)).PerSample(s, x.NDim()).Expand(s, x.Shape()...)
}

// A null condition may have one row for all samples. Fields that it does not set are the samples' own.
func TestGuidedByText(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, at := torch.Zeros(s, torch.Float64, 2, 1), torch.Ones(s, torch.Float64, 1)
		c := Cond{
			Text: torch.FromSlice(s, []float64{1, 2, 3, 4}, 2, 2, 1), Pooled: torch.FromSlice(s, []float64{10, 20}, 2, 1),
			Sizes: torch.FromSlice(s, []float64{100}, 1, 1), Control: &Residuals{Mid: torch.FromSlice(s, []float64{1000, 2000}, 2, 1)},
		}
		null := Cond{Text: torch.FromSlice(s, []float64{0, 0.5}, 1, 2, 1), Pooled: torch.FromSlice(s, []float64{5, 6}, 2, 1)}
		// With the condition 1113 and 2127, without 1105.5 and 2106.5.
		got := (&Guided{Model: described{}, Null: null, Scale: 3}).Denoise(s, x, at, c)
		require.Equal(t, []float64{1105.5 + 3*7.5, 2106.5 + 3*20.5}, torch.ToSlice[float64](got))

		for want, null := range map[string]Cond{
			"Cond.Class":  {Class: torch.FromSlice(s, []int64{3})},
			"empty":       {},
			"got [3 1]":   {Text: torch.Zeros(s, torch.Float64, 1, 3, 1)},
			"got shape [": {Text: torch.Zeros(s, torch.Float64, 3, 2, 1)},
		} {
			err := torch.Catch(func() { (&Guided{Model: described{}, Null: null, Scale: 3}).Denoise(s, x, at, c) })
			require.ErrorContains(t, err, want)
		}
		return nil
	}))
}

// Rows selects samples from fields with one row for each, and expands fields with one row for all.
func TestCondRows(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		v := func(dims ...int) *torch.Tensor { return torch.FromSlice(s, []float64{1, 2, 3}).Reshape(s, dims...) }
		c := Cond{
			Class: v(3), Until: v(3), Guidance: torch.Full(s, 7, torch.Float64, 1), Text: v(3, 1, 1), Pooled: v(3, 1), Sizes: v(3, 1),
			Control: &Residuals{Down: []*torch.Tensor{v(3, 1)}, Mid: v(3, 1)},
		}
		got := c.Rows(s, torch.FromSlice(s, []int64{2, 0}))
		for _, r := range []*torch.Tensor{got.Class, got.Until, got.Text, got.Pooled, got.Sizes, got.Control.Down[0], got.Control.Mid} {
			require.Equal(t, []float64{3, 1}, torch.ToSlice[float64](r.Contiguous(s)))
			require.Equal(t, 2, r.Dim(0))
		}
		require.Equal(t, []float64{7, 7}, torch.ToSlice[float64](got.Guidance.Contiguous(s)))
		require.Equal(t, []float64{1, 2, 3}, torch.ToSlice[float64](c.Control.Mid.Reshape(s, 3)), "the conditions stay as they were")
		require.Equal(t, Cond{}, Cond{}.Rows(s, torch.FromSlice(s, []int64{2})))
		return nil
	}))
}
