package optim

import (
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/quote"
)

// Decay is a learning-rate decay.
type Decay string

// Learning-rate decays. T is the schedule's Steps, and K its Start, or the end of the warm-up if that is later.
const (
	Constant    Decay = ""       // no decay
	Linear      Decay = "linear" // (T-k)/(T-K), to 0
	Cosine      Decay = "cosine" // (1 + cos(π·(k-K)/(T-K)))/2, to 0
	InverseSqrt Decay = "rsqrt"  // √(K/k), which never ends
)

// ParseDecay returns the decay of a name: constant, linear, cosine or rsqrt.
func ParseDecay(name string) (Decay, error) {
	switch d := Decay(name); d {
	case "constant":
		return Constant, nil
	case Linear, Cosine, InverseSqrt:
		return d, nil
	}
	return "", fmt.Errorf("learning rate: want a constant, linear, cosine or rsqrt schedule, got %s", quote.Quoted(name))
}

// Schedule is the factor of the learning rate as a function of the step. Its zero value is a constant 1.
type Schedule struct {
	Decay  Decay
	Warmup int // steps of linear rise, from 1/Warmup to 1; 0: none
	Start  int // the step at which the decay starts; 0: after the warm-up
	Steps  int // length of the run; needed for Linear and Cosine
}

// At returns the factor in [0, 1] for step k, counted from 0. The first of W warm-up steps has the factor 1/W. After the
// last step, Linear and Cosine stay at 0.
func (c Schedule) At(k int) float64 {
	if k < c.Warmup {
		return float64(k+1) / float64(c.Warmup)
	}
	start := max(c.Start, c.Warmup)
	if k <= start {
		return 1
	}
	left := max(0, float64(c.Steps-k)/float64(c.Steps-start))
	switch c.Decay {
	case Linear:
		return left
	case Cosine:
		return (1 + math.Cos(math.Pi*(1-left))) / 2
	case InverseSqrt:
		return math.Sqrt(float64(max(start, 1)) / float64(k))
	default:
		return 1
	}
}

// Validate returns an error for inconsistent settings.
func (c Schedule) Validate() error {
	switch c.Decay {
	case Constant, InverseSqrt:
	case Linear, Cosine:
		if start := max(c.Start, c.Warmup); c.Steps <= start {
			return fmt.Errorf("learning rate: the %s decay starts at step %d of %d: want a start before the last step", quote.Text(c.Decay), start, c.Steps)
		}
	default:
		return fmt.Errorf("learning rate: unknown decay %s: want %q, %q, %q, or none for a constant rate", quote.Quoted(c.Decay), Linear, Cosine, InverseSqrt)
	}
	if c.Warmup < 0 || c.Start < 0 || c.Steps < 0 {
		return fmt.Errorf("learning rate: Warmup %d, Start %d and Steps %d have to be 0 or more", c.Warmup, c.Start, c.Steps)
	}
	return nil
}
