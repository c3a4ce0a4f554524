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
			g := &Guided{Model: d, Null: 10, Scale: c.scale}
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
		y := (&Guided{Model: &classified{}, Null: 10, Scale: 2}).Denoise(s, x, at, Cond{Class: class, Until: torch.FromSlice(s, []float64{7, 7, 7})})
		require.Equal(t, []float32{12 - 20 + 7, 13 - 10 + 7, 14 - 2 + 7}, first(y), "a second time goes to both")
		err := torch.Catch(func() { (&Guided{Model: &classified{}, Scale: 2}).Denoise(s, x, at, Cond{}) })
		require.ErrorContains(t, err, "there is no class to guide to")
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
		requireClose(t, want, (&Guided{Model: d, Null: -1, Scale: 2.5}).Denoise(s, x, at, Cond{Class: class}), 1e-13)
		return nil
	}))
}
