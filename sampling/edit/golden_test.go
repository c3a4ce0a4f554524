package edit_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// coupled is the consistency function f of scripts/golden/sampling/edit/edit.py.
type coupled struct{}

const eps = 0.002

func (coupled) Origin(s *torch.Scope, x, at *torch.Tensor, _ models.Cond) *torch.Tensor {
	t := at.Narrow(s, 0, 0, 1).Item()
	u := x.MulScalar(s, 1/math.Sqrt(t*t+0.25))
	mean := u.SumDim(s, true, 1).MulScalar(s, 1/float64(x.Dim(1)))
	mixed := u.MulScalar(s, 0.9).Add(s, rolled(s, u, 3).MulScalar(s, 0.6)).Sub(s, rolled(s, u, 2).MulScalar(s, 0.4)).Add(s, mean.MulScalar(s, 0.5)).Tanh(s)
	return x.MulScalar(s, 0.25/((t-eps)*(t-eps)+0.25)).Add(s, mixed.MulScalar(s, 1.3*(t-eps)/math.Sqrt(t*t+0.25)))
}

// rolled shifts x by one along a dimension, the last to the front.
func rolled(s *torch.Scope, x *torch.Tensor, dim int) *torch.Tensor {
	n := x.Dim(dim)
	return torch.Cat(s, []*torch.Tensor{x.Narrow(s, dim, n-1, 1), x.Narrow(s, dim, 0, n-1)}, dim)
}

// Every task in float64 against algorithm 4 with the matrices of the authors' code, and noise from the same seeds. Where paper and code
// differ, and what is chosen, is in the script. 1e-12: values of up to 80 with 16 digits, and some tens of operations.
func TestGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/edit.safetensors")
		y, levels := golden["image"], torch.ToSlice[float64](golden["levels"])
		check := func(name string, e edit.Edit, levels ...float64) {
			t.Helper()
			got, err := e.Sample(t.Context(), s, coupled{}, sampling.Multistep{}, sampling.Options{Levels: levels, Streams: noise.NewStreams(s, 11, 12)})
			require.NoError(t, err, name)
			torchtest.Close(t, name, got, golden[name], 1e-12, 1e-12)
		}
		small, err := edit.Superresolve(s, y, 4)
		require.NoError(t, err)
		for name, e := range map[string]edit.Edit{"inpaint": edit.Inpaint(y, golden["mask"]), "colorize": edit.Colorize(s, y), "superres": small} {
			check(name, e, levels...)
			torchtest.Close(t, name, e.Known(s), golden[name+".known"], 1e-14, 1e-14)
			e.Clamp = false
			check(name+".free", e, levels...)
		}
		check("stroke", edit.Stroke(y), 5.38, 2.24, 0)
		check("denoise", edit.Denoise(y), 0.3, 0)
		check("denoise.two", edit.Denoise(y), 0.3, 0.1, 0)

		z := noise.NewStreams(s, 11, 12).Randn(s, torch.Float64, y.Shape()[1:]...)
		z1, z2, at := z.Narrow(s, 0, 0, 1), z.Narrow(s, 0, 1, 1), []float64{0.25, 0.5, 0.9}
		between, err := edit.Slerp(s, z1, z2, at...)
		require.NoError(t, err)
		torchtest.Close(t, "slerp", between, golden["slerp"], 1e-14, 1e-14)
		e, err := edit.Interpolate(s, z1, z2, at...)
		require.NoError(t, err)
		got, err := e.Sample(t.Context(), s, coupled{}, sampling.Multistep{}, sampling.Options{Levels: []float64{80, 0}})
		require.NoError(t, err)
		torchtest.Close(t, "interpolate", got, golden["interpolate"], 1e-12, 1e-12)
		return nil
	}))
}
