package solver_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/solver"
	"github.com/onestep-go/onestep/torch"
)

// The error of a path falls with the square of its steps, and each step calls the denoiser once. A path to level 0 ends at a prediction.
func TestPathIsOfSecondOrder(t *testing.T) {
	data := modelstest.Gaussian{Mean: 0.3, Std: 0.4}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float64{5, -3, 1, 0.2}, 2, 2)
		levels := func(n int) []float64 {
			up := noise.Karras(n+1, 0.1, 10, 7)
			for i, j := 0, n; i < j; i, j = i+1, j-1 {
				up[i], up[j] = up[j], up[i]
			}
			return up
		}
		off := func(n int) float64 {
			d := &counted{Denoiser: data}
			path := solver.Path(s, d, x, levels(n), models.Cond{})
			require.Len(t, path, n+1)
			require.Equal(t, n, d.n)
			sum := 0.0
			for i, v := range torch.ToSlice[float64](path[n]) {
				e := v - data.Move(torch.ToSlice[float64](x)[i], 10, 0.1)
				sum += e * e
			}
			return sum
		}
		require.InDelta(t, 16, off(40)/off(80), 3, "squares of errors")

		d := &counted{Denoiser: data}
		path := solver.Path(s, d, x, []float64{10, 1, 0}, models.Cond{})
		last := data.Denoise(s, path[1], torch.Full(s, 1, torch.Float64, 2), models.Cond{})
		require.Equal(t, torch.ToSlice[float64](last), torch.ToSlice[float64](path[2]))
		return nil
	}))
}

// counted counts a denoiser's calls.
type counted struct {
	models.Denoiser
	n int
}

func (d *counted) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	d.n++
	return d.Denoiser.Denoise(s, x, t, c)
}
