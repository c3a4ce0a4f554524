package noise

import "cmp"

// Grid is the size of the grid of timesteps of LCM's and TCD's samplers: OriginalSteps, or else 50, as diffusers' default, of a chain that has as many.
func (c Config) Grid() int { return cmp.Or(c.OriginalSteps, min(50, c.Steps())) }

// OfGrid returns n timesteps, descending from the last, of the grid skip-1, 2·skip-1, …, size·skip-1 that a few-step model was distilled on, with n of
// at most size: those of diffusers' LCMScheduler.
func OfGrid(skip, size, n int) []int {
	at := make([]int, n)
	for i := range at {
		place := int(float64(i) * (float64(size) / float64(n))) // descending; numpy.linspace, rounded down
		at[i] = (size-place)*skip - 1
	}
	return at
}
