package noise

import (
	"math"
	"slices"
)

// Karras returns n noise levels between from and to, evenly spaced in σ^(1/ρ) (Karras et al. 2022, eq. 5); ρ is 7 in the paper.
// Ascending, from lo to hi, they are the discretisation of the consistency models paper:
//
//	t_i = (lo^(1/ρ) + (i-1)/(n-1)·(hi^(1/ρ) - lo^(1/ρ)))^ρ
//
// Descending, the same numbers are a sampler's levels. The ends are exact. For n = 1 the level is from.
func Karras(n int, from, to, rho float64) []float64 {
	if n == 1 {
		return []float64{from}
	}
	lo, hi := min(from, to), max(from, to)
	levels := make([]float64, n)
	a, b := math.Pow(lo, 1/rho), math.Pow(hi, 1/rho)
	for i := range levels {
		levels[i] = math.Pow(a+float64(i)/float64(n-1)*(b-a), rho)
	}
	levels[0], levels[n-1] = lo, hi
	if from > to {
		slices.Reverse(levels)
	}
	return levels
}

// Exponential returns n noise levels from hi down to lo, evenly spaced in ln σ. For n = 1 the level is hi.
func Exponential(n int, hi, lo float64) []float64 {
	return spaced(n, hi, lo, func(a float64) float64 { return hi * math.Pow(lo/hi, a) })
}

// Flow returns n noise levels from hi down to lo, which may be 0, evenly spaced in the time τ = σ/(1+σ) of flow
// matching, before τ is shifted to shift·τ/(1 + (shift-1)·τ) (Esser et al. 2024, eq. 23); shift 0 or 1: no shift.
// A shift multiplies σ by shift; hi and lo are levels after the shift. For n = 1 the level is hi.
func Flow(n int, hi, lo, shift float64) []float64 {
	if shift == 0 {
		shift = 1
	}
	alpha := func(sigma float64) float64 { return 1 / (1 + sigma/shift) } // 1 - τ
	return spaced(n, hi, lo, func(a float64) float64 {
		at := alpha(hi) + a*(alpha(lo)-alpha(hi))
		return shift * (1 - at) / at
	})
}

// VP is the continuous variance-preserving process (Song et al. 2021, eq. 33) in time τ from 0 to 1. The zero value has the
// constants of Karras et al. 2022, table 1.
type VP struct {
	BetaD, BetaMin float64 // β(τ) = BetaD·τ + BetaMin; both 0: 19.9 and 0.1
}

// Constants returns β_d and β_min, with their defaults.
func (p VP) Constants() (betaD, betaMin float64) {
	if p.BetaD == 0 && p.BetaMin == 0 {
		return 19.9, 0.1
	}
	return p.BetaD, p.BetaMin
}

// Sigma returns the noise level at time τ: √(e^(β_d·τ²/2 + β_min·τ) - 1).
func (p VP) Sigma(tau float64) float64 {
	betaD, betaMin := p.Constants()
	return math.Sqrt(math.Expm1(betaD*tau*tau/2 + betaMin*tau))
}

// Levels returns n noise levels evenly spaced in time from 1 down to 0.001.
func (p VP) Levels(n int) []float64 {
	return spaced(n, p.Sigma(1), p.Sigma(0.001), func(a float64) float64 { return p.Sigma(1 + a*(0.001-1)) })
}

// spaced returns at(a) for n evenly spaced a from 0 to 1, with the ends exactly hi and lo.
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
