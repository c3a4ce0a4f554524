package noise

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
