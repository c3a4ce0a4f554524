package unet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Published sizes: those of the released checkpoints (consistency models, EDM), counted without making a weight.
func TestPresetsHavePublishedSizes(t *testing.T) {
	imageNet := ADM(64, 3, 192, []int{1, 2, 3, 4}, 3, 32, 16, 8)
	imageNet.Classes = 1000
	bedroom := ADM(256, 3, 256, []int{1, 1, 2, 2, 4, 4}, 2, 32, 16, 8)
	bedroom.ScaleShift = false
	for _, c := range []struct {
		name   string
		config Config
		want   float64 // millions of weights
	}{
		{"ADM ImageNet 64", imageNet, 295.90},
		{"ADM LSUN 256", bedroom, 526.30},
		// The published 55.734 million have a matrix of 9 × 128 for augmentation labels, which this network has not.
		{"DDPM++ CIFAR-10", DDPMPP(32, 3, 128, []int{2, 2, 2}, 4, 16), 55.734 - 9*128/1e6},
		{"benchmark, 32×32×3", Benchmark(32, 3), 6.989891},
		{"benchmark, 28×28×1", Benchmark(28, 1), 6.987585},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, c.config.Validate())
			require.InDelta(t, c.want, float64(c.config.Count())/1e6, 0.006)
		})
	}
}
