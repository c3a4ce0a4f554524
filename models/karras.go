package models

import "math"

// Karras returns n noise levels, ascending from lo to hi, evenly spaced after taking the ρ-th root (Karras et al. 2022,
// eq. 5; here in ascending order, as in the consistency models paper):
//
//	t_i = (lo^(1/ρ) + (i-1)/(n-1)·(hi^(1/ρ) - lo^(1/ρ)))^ρ
//
// The ends are lo and hi exactly. n must be at least 2.
func Karras(n int, lo, hi, rho float64) []float64 {
	levels := make([]float64, n)
	a, b := math.Pow(lo, 1/rho), math.Pow(hi, 1/rho)
	for i := range levels {
		levels[i] = math.Pow(a+float64(i)/float64(n-1)*(b-a), rho)
	}
	levels[0], levels[n-1] = lo, hi
	return levels
}
