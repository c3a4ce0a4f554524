package noise

import (
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/enum"
)

// Schedule is the beta schedule of a discrete variance-preserving chain.
type Schedule int

const (
	// Linear spaces β evenly (Ho et al. 2020, section 4).
	Linear Schedule = iota
	// ScaledLinear spaces √β evenly (Rombach et al. 2022).
	ScaledLinear
	// Cosine makes ᾱ a squared cosine of the timestep (Nichol & Dhariwal 2021, eq. 17).
	Cosine
)

var schedules = enum.Names[Schedule]{What: "schedule of betas", Words: []string{"linear", "scaled_linear", "cosine"}}

// MarshalText returns "linear", "scaled_linear" or "cosine".
func (b Schedule) MarshalText() ([]byte, error) { return schedules.Text(b) }

// UnmarshalText is the reverse of MarshalText.
func (b *Schedule) UnmarshalText(text []byte) error { return schedules.Parse(text, b) }

// Betas describes a chain by its beta schedule. The zero value is the schedule of Ho et al. 2020.
type Betas struct {
	Schedule Schedule `json:"schedule"`
	Steps    int      `json:"steps"` // 0: 1000
	// First and Last are the first and last β of Linear and ScaledLinear; both 0: 0.0001 and 0.02 for Linear, 0.00085 and 0.012
	// for ScaledLinear, as in Stable Diffusion.
	First float64 `json:"first,omitempty"`
	Last  float64 `json:"last,omitempty"`
}

func (b Betas) withDefaults() Betas {
	if b.Steps == 0 {
		b.Steps = 1000
	}
	if b.First == 0 && b.Last == 0 {
		b.First, b.Last = 1e-4, 0.02
		if b.Schedule == ScaledLinear {
			b.First, b.Last = 0.00085, 0.012
		}
	}
	return b
}

// Validate reports values that are out of range.
func (b Betas) Validate() error {
	b = b.withDefaults()
	switch {
	case b.Schedule < Linear || b.Schedule > Cosine:
		return fmt.Errorf("betas: unknown schedule %d: want %d to %d", b.Schedule, Linear, Cosine)
	case b.Steps < 2 || b.Steps > 1e6:
		return fmt.Errorf("betas: want 2 to 1000000 steps, or 0 for 1000, got %d", b.Steps)
	case b.Schedule != Cosine && !(b.First > 0 && b.First <= b.Last && b.Last < 1):
		return fmt.Errorf("betas: want 0 < first ≤ last < 1, got %g and %g", b.First, b.Last)
	}
	return nil
}

// Values returns β of every timestep, in ascending order of timesteps.
func (b Betas) Values() ([]float64, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	return b.withDefaults().values(), nil
}

// values is Values without validation, of a schedule with its defaults filled in.
func (b Betas) values() []float64 {
	betas := make([]float64, b.Steps)
	n := float64(b.Steps)
	for i := range betas {
		at := float64(i) / (n - 1)
		switch b.Schedule {
		case Linear:
			betas[i] = b.First + at*(b.Last-b.First)
		case ScaledLinear:
			root := math.Sqrt(b.First) + at*(math.Sqrt(b.Last)-math.Sqrt(b.First))
			betas[i] = root * root
		case Cosine:
			bar := func(at float64) float64 {
				root := math.Cos((at + 0.008) / 1.008 * math.Pi / 2)
				return root * root
			}
			betas[i] = min(1-bar(float64(i+1)/n)/bar(float64(i)/n), 0.999)
		}
	}
	return betas
}

// Chain returns the chain with these betas.
func (b Betas) Chain() (*Chain, error) {
	betas, err := b.Values()
	if err != nil {
		return nil, err
	}
	c, err := NewChain(betas)
	if err == nil {
		c.made = b.withDefaults()
	}
	return c, err
}
