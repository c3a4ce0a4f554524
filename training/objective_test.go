package training

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// The part of samples that lose their class is the one asked for, the others keep theirs, and it is the same in the same step.
func TestDropLabels(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const n = 20000
		labels := make([]int64, n)
		for i := range labels {
			labels[i] = int64(i % 7)
		}
		b := Batch{X: torch.Zeros(s, torch.Float32, n, 1), Cond: models.Cond{Class: torch.FromSlice(s, labels)}}
		drop := func(k int) []int64 {
			return torch.ToSlice[int64](DropLabels(0.2, 7)(s, b, drawn(3, k, b)).Cond.Class)
		}
		got := drop(5)
		dropped := 0
		for i, l := range got {
			if l == 7 {
				dropped++
			} else {
				require.Equal(t, labels[i], l)
			}
		}
		require.InDelta(t, 0.2, float64(dropped)/n, 0.015) // five deviations
		require.Equal(t, got, drop(5))
		require.NotEqual(t, got, drop(6))
		require.Equal(t, labels, torch.ToSlice[int64](b.Cond.Class), "the batch itself is as it was")
		require.Nil(t, DropLabels(0.2, 7)(s, Batch{X: b.X}, drawn(3, 0, b)).Cond.Class)

		w := torch.ToSlice[float32](DrawGuidance(1, 5)(s, b, drawn(3, 0, b)).Cond.Guidance)
		mean := 0.0
		for _, v := range w {
			require.GreaterOrEqual(t, v, float32(1))
			require.Less(t, v, float32(5))
			mean += float64(v) / n
		}
		require.InDelta(t, 3, mean, 0.05)
		return nil
	}))
}

// told records what a network and a denoiser are told.
type told struct {
	modelstest.Gaussian
	got *models.Cond
}

func (g told) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	*g.got = c
	return g.Gaussian.Denoise(s, x, t, models.Cond{})
}

// Student, target and teacher are told the same guidance scales.
func TestGuidanceIsDistilled(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		net := &recorder{}
		var teacher models.Cond
		c := &CD{CT: CT{Model: &models.Consistency{Net: net}, Schedule: Fixed{}}, Teacher: told{gaussian, &teacher}, Solver: sampling.Euler{}}
		b := Batch{X: torch.Zeros(s, torch.Float64, 3, 2), Cond: models.Cond{Guidance: torch.FromSlice(s, []float64{1, 2, 3})}}
		c.LossAt(s, b, []float64{1, 1, 1}, []float64{2, 2, 2}, torch.Zeros(s, torch.Float64, 3, 2), 1)
		require.Same(t, b.Cond.Guidance, teacher.Guidance)
		require.Len(t, net.guidance, 2)
		for _, w := range net.guidance {
			require.Same(t, b.Cond.Guidance, w)
		}
		return nil
	}))
}
