package edit

import (
	"math"

	"github.com/onestep-go/onestep/models/noise"
)

// The noise levels between which algorithm 4 joins what is known to what is generated. Above them images are noise alone, whatever is known of
// them, and below the generated part hardly changes.
const (
	coarse = 10
	fine   = 0.05
)

// Levels returns the usual time points of algorithm 4 for inpainting, colorization and super-resolution: the largest level, and Karras's levels
// from 10 to 0.05. The authors have Karras's levels from the largest level to 0.002, of which most steps are spent where nothing is decided: with
// an exact function of Gaussian data, 40 of theirs repaint with 72 % of the mean that the known part implies, and these with 82 %
// (TestInpaintingOfGaussian).
func Levels(largest float64, steps int) []float64 {
	top := min(coarse, largest/2)
	switch {
	case steps <= 1:
		return []float64{largest}
	case steps == 2:
		return []float64{largest, math.Sqrt(top * min(fine, top/2))}
	}
	return append([]float64{largest}, noise.Karras(steps-1, top, min(fine, top/2), 7)...)
}
