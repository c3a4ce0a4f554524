package models

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Masks follow from seed and place alone, are those of other seeds or places nowhere near, and keep the mean.
func TestDropoutMasks(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
			x := torch.Ones(s, torch.Float32, 1000)
			masks := func(d Dropout, place int) []float32 { return torch.ToSlice[float32](d.Apply(s, x, 0.25, place)) }
			first := masks(DropoutFrom(7), 0)
			dropped := 0
			for _, v := range first {
				if v == 0 {
					dropped++
				} else {
					require.InDelta(t, 4.0/3, v, 1e-6)
				}
			}
			require.InDelta(t, 250, dropped, 60) // 4.4 deviations
			// Two independent masks differ in 375 elements of 1,000 on average, with a deviation of 15.
			for name, other := range map[string][]float32{
				"another place": masks(DropoutFrom(7), 1), "another seed": masks(DropoutFrom(8), 0),
				"places and seeds are no sum": masks(DropoutFrom(6), 1), "seed 0": masks(DropoutFrom(0), 0),
			} {
				differ := 0
				for i, v := range other {
					if v != first[i] {
						differ++
					}
				}
				require.InDelta(t, 375, differ, 75, name)
			}
			require.Equal(t, first, masks(DropoutFrom(7), 0), "after others")
			require.Same(t, x, Dropout{}.Apply(s, x, 0.25, 0), "evaluation")
			require.Same(t, x, DropoutFrom(7).Apply(s, x, 0, 0))
			return nil
		}))
	})
}
