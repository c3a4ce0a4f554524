// Package shuffle draws numbers and orders that depend on their place alone, so that a run resumes anywhere without replaying what came
// before.
package shuffle

import (
	"math"
	"math/bits"
)

// Permute returns the image at position i, 0 ≤ i < n, of an epoch's order: a permutation of n < 2^32 numbers that needs no
// table. It is a Feistel network on pairs (i / b, i mod b) with a·b ≥ n, applied again while its result is n or more
// (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking).
func Permute(seed, epoch, n, i uint64) uint64 {
	a := uint64(math.Sqrt(float64(n)))
	b := (n + a - 1) / a
	key := Mix(seed ^ Mix(epoch))
	for {
		x, y := i/b, i%b
		for round := range uint64(6) {
			// A number below a, drawn from (key, round, y), is the high word of a·2^64/2^64.
			f, _ := bits.Mul64(Mix(key^(2*round<<32|y)), a)
			x = (x + f) % a
			f, _ = bits.Mul64(Mix(key^((2*round+1)<<32|x)), b)
			y = (y + f) % b
		}
		if i = x*b + y; i < n {
			return i
		}
	}
}

// Mix is one step of SplitMix64 (Steele, Lea and Flood 2014): a bijection in which each output bit depends on all input bits.
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
