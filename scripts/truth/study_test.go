package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/modelstest"
)

// The optimum of the adaptive loss is off the mean, the less the more dimensions the data has; that of the loss without weights is the mean.
func TestAdaptiveWeightsMoveTheOptimum(t *testing.T) {
	few, many := offMean(2, 0.75), offMean(32, 0.75)
	t.Logf("from the mean by element: %.3f in 2 dimensions, %.3f in 32", few, many)
	require.Less(t, many, few/4)
	x := [2]float64{0.4, -0.9}
	plain, weighted := adaptive(x, 1, 0), adaptive(x, 1, 0.75)
	axis := modelstest.Grid()
	require.InDelta(t, axis.Denoise(x[0], 1), plain[0], 1e-3)
	require.Greater(t, math.Hypot(weighted[0]-plain[0], weighted[1]-plain[1]), 0.02)
}
