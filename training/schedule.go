package training

import (
	"cmp"
	"math"
)

// Schedule is the number of noise levels and the decay of the target network, by training step k.
type Schedule interface {
	// At returns N(k) >= 2 and the target's decay μ(k) in [0, 1]. With decay 0 the target is the model itself.
	At(k int) (levels int, decay float64)
}

// Fixed is a constant schedule, as in distillation (Song et al. 2023, section 4).
type Fixed struct {
	Levels int     // 0: 18
	Decay  float64 // of the target; 0: the model itself is the target
}

// At returns the same for every k.
func (f Fixed) At(int) (int, float64) {
	f.Levels = cmp.Or(f.Levels, 18)
	return f.Levels, f.Decay
}

// Progressive is the schedule of consistency training (Song et al. 2023, appendix C):
//
//	N(k) = ⌈√(k/K·((s1+1)² - s0²) + s0²) - 1⌉ + 1        μ(k) = exp(s0·ln μ0 / N(k))
//
// This is the paper's formula, in which μ(0) = μ0. The published code has N(k)-1 in place of N(k) in μ.
type Progressive struct {
	S0    int     // levels at the start; 0: 2
	S1    int     // levels at the end, minus one; 0: 150
	Mu0   float64 // the target's decay at the start; 0: 0.9
	Steps int     // K, the length of the run
}

func (p Progressive) withDefaults() Progressive {
	p.S0 = cmp.Or(p.S0, 2)
	p.S1 = cmp.Or(p.S1, 150)
	p.Mu0 = cmp.Or(p.Mu0, 0.9)
	return p
}

// At returns N(k) and μ(k). Steps past K stay at the end of the schedule.
func (p Progressive) At(k int) (int, float64) {
	p = p.withDefaults()
	s0, s1 := float64(p.S0), float64(p.S1)
	at := 1.0
	if p.Steps > 0 {
		at = math.Min(1, float64(k)/float64(p.Steps))
	}
	n := math.Ceil(math.Sqrt(at*((s1+1)*(s1+1)-s0*s0)+s0*s0)-1) + 1
	return int(n), math.Exp(s0 * math.Log(p.Mu0) / n)
}

// Doubling is the schedule of improved consistency training (Song & Dhariwal 2023, section 3.4): the number of levels
// doubles in stages of equal length, and the target is the model itself.
//
//	N(k) = min(s0·2^⌊k/K'⌋, s1) + 1        K' = ⌊K / (log2⌊s1/s0⌋ + 1)⌋
type Doubling struct {
	S0    int // 0: 10
	S1    int // 0: 1280
	Steps int // K, the length of the run
}

// At returns N(k), and 0: the target is the model itself.
func (d Doubling) At(k int) (int, float64) {
	s0, s1 := cmp.Or(d.S0, 10), cmp.Or(d.S1, 1280)
	stages := math.Log2(math.Floor(float64(s1)/float64(s0))) + 1
	length := max(1, int(float64(d.Steps)/stages))
	stage := min(k/length, 30)
	return min(s0<<stage, s1) + 1, 0
}

// Linear is a schedule without stages: the gap between neighbouring levels decreases linearly over the run. The gap is measured in
// σ^(1/ρ), in which Karras's levels are evenly spaced, and is 1/(N-1) of the whole range:
//
//	1/(N(k)-1) ≈ (1-a)/s0 + a/s1        a = min(1, k/K)
//
// with N(k) rounded to an integer. During half of the run there are at most twice the initial levels; most levels are added at the end.
type Linear struct {
	S0    int     // levels at the start, minus one; 0: 10
	S1    int     // levels at the end, minus one; 0: 1280
	Decay float64 // of the target; 0: the model itself is the target
	Steps int     // K, the length of the run
}

// At returns N(k) and the decay. Steps past K stay at the end of the schedule.
func (l Linear) At(k int) (int, float64) {
	l.S0 = cmp.Or(l.S0, 10)
	l.S1 = cmp.Or(l.S1, 1280)
	at := 1.0
	if l.Steps > 0 {
		at = math.Min(1, float64(k)/float64(l.Steps))
	}
	return int(math.Round(1/((1-at)/float64(l.S0)+at/float64(l.S1)))) + 1, l.Decay
}

// FitLevels returns the number of noise levels at the end of a schedule that suits a run of the given length. Published runs take
// 400,000 steps and more to reach 150 levels. Short runs with as many levels collapse, since every level has to be learned before
// the next; about 100 steps per level are enough.
func FitLevels(steps int) int { return min(150, max(10, steps/100)) }
