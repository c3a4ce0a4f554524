package blocks

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Cosines and sines are those of the formula, of every element, in both orders and with both lowest frequencies.
func TestSinusoids(t *testing.T) {
	values := []float64{-1, 0, 0.3, 999}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, e := range []Sinusoids{{Dim: 6}, {Dim: 6, Shift: 1}, {Dim: 4, Shift: 1, SinFirst: true}} {
			before := torch.Live()
			got := e.Of(s, torch.FromSlice(s, values, 2, 2))
			require.EqualValues(t, before+2, torch.Live())
			require.Equal(t, []int{4, e.Dim}, got.Shape())
			half := e.Dim / 2
			var want []float64
			for _, v := range values {
				row := make([]float64, e.Dim)
				for i := range half {
					angle := v * math.Pow(10000, -float64(i)/float64(half-e.Shift))
					cos, sin := i, half+i
					if e.SinFirst {
						cos, sin = sin, cos
					}
					row[cos], row[sin] = math.Cos(angle), math.Sin(angle)
				}
				want = append(want, row...)
			}
			require.InDeltaSlice(t, want, torch.ToSlice[float64](got), 1e-12)
			require.Equal(t, torch.Float32, e.Of(s, torch.Ones(s, torch.Float32, 2)).DType())
		}
		return nil
	}))
}

func TestTimestepEmbedding(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		e, st := build(t, dev, func(p nn.Path) *TimestepEmbedding { return NewTimestepEmbedding(p, 4, 6) })
		var names []string
		for name := range st.Parameters() {
			names = append(names, name)
		}
		require.Equal(t, []string{"linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"}, names)
		require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 3, 4)
			same(t, s, st, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return e.Forward(s, x, nil) },
				func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
					return e.Linear2.Forward(s, e.Linear1.Forward(s, x).SiLU(s))
				})
			return nil
		}))
	})
}
