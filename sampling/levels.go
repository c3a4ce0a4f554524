package sampling

import (
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
)

// KarrasLevels returns n noise levels from hi down to lo, evenly spaced in their ρ-th roots (Karras et al. 2022, eq. 5); ρ is
// 7 in the paper. One level is hi.
func KarrasLevels(n int, hi, lo, rho float64) []float64 {
	if n == 1 {
		return []float64{hi}
	}
	levels := models.Karras(n, lo, hi, rho)
	slices.Reverse(levels)
	return levels
}

// ExponentialLevels returns n noise levels from hi down to lo with equal ratios. One level is hi.
func ExponentialLevels(n int, hi, lo float64) []float64 {
	return spaced(n, hi, lo, func(a float64) float64 { return hi * math.Pow(lo/hi, a) })
}

// FlowLevels returns n noise levels from hi down to lo, which may be 0, evenly spaced in the time τ = σ/(1+σ) of flow
// matching, before that time is shifted to shift·τ/(1 + (shift-1)·τ) (Esser et al. 2024, eq. 23); shift 0 or 1 leaves it.
// A shift multiplies σ; hi and lo are levels after it. One level is hi.
func FlowLevels(n int, hi, lo, shift float64) []float64 {
	if shift == 0 {
		shift = 1
	}
	alpha := func(sigma float64) float64 { return 1 / (1 + sigma/shift) } // 1 - τ
	return spaced(n, hi, lo, func(a float64) float64 {
		at := alpha(hi) + a*(alpha(lo)-alpha(hi))
		return shift * (1 - at) / at
	})
}

// VPLevels returns n noise levels of the continuous variance-preserving process, σ(t) = √(e^(β_d·t²/2 + β_min·t) - 1), evenly
// spaced in t from 1 down to 0.001 (Karras et al. 2022, table 1, with β_d = 19.9 and β_min = 0.1).
func VPLevels(n int) []float64 {
	sigma := func(t float64) float64 { return math.Sqrt(math.Expm1(19.9*t*t/2 + 0.1*t)) }
	return spaced(n, sigma(1), sigma(0.001), func(a float64) float64 { return sigma(1 + a*(0.001-1)) })
}

// ChainLevels returns n noise levels, largest first, of a discrete variance-preserving chain with these variances β, lowest
// noise first: σ² = (1 - ᾱ)/ᾱ with ᾱ the product of 1 - β. The noisiest level is always among them and the others follow at
// equal distances (diffusers' "trailing"). n is 1 to len(betas); append 0 to end at a prediction.
func ChainLevels(betas []float64, n int) ([]float64, error) {
	if n < 1 || n > len(betas) {
		return nil, fmt.Errorf("noise levels: want 1 to %d, the chain's, got %d", len(betas), n)
	}
	sigmas := make([]float64, len(betas))
	product := 1.0
	for i, beta := range betas {
		if !(beta > 0 && beta < 1) {
			return nil, fmt.Errorf("noise levels: want betas between 0 and 1, got %g at %d", beta, i)
		}
		product *= 1 - beta
		sigmas[i] = math.Sqrt((1 - product) / product)
	}
	levels := make([]float64, n)
	for i := range levels {
		levels[i] = sigmas[int(math.Round(float64(len(betas)*(n-i))/float64(n)))-1]
	}
	return levels, nil
}

// spaced returns at(0) to at(1) in n steps of equal size, with the ends exactly hi and lo.
func spaced(n int, hi, lo float64, at func(a float64) float64) []float64 {
	levels := make([]float64, n)
	for i := range levels {
		levels[i] = at(float64(i) / float64(max(n-1, 1)))
	}
	if n > 1 {
		levels[n-1] = lo
	}
	if n > 0 {
		levels[0] = hi
	}
	return levels
}
