package noise

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/enum"
)

// Prediction is the prediction type of a variance-preserving network.
type Prediction int

const (
	// Epsilon is ε, the noise z (Ho et al. 2020).
	Epsilon Prediction = iota
	// Velocity is v = √ᾱ·z - √(1-ᾱ)·x_0 (Salimans & Ho 2022, appendix D).
	Velocity
	// Sample is x_0.
	Sample
)

var predictions = enum.Names[Prediction]{What: "prediction", Words: []string{"noise", "velocity", "data"}}

// MarshalText returns "noise", "velocity" or "data".
func (p Prediction) MarshalText() ([]byte, error) { return predictions.Text(p) }

// UnmarshalText is the reverse of MarshalText.
func (p *Prediction) UnmarshalText(text []byte) error { return predictions.Parse(text, p) }

// Diffusers returns the prediction_type of diffusers: "epsilon", "v_prediction" or "sample".
func (p Prediction) Diffusers() string {
	return [...]string{"epsilon", "v_prediction", "sample"}[p]
}

// Validate reports a value out of range. what names its owner in the error.
func (p Prediction) Validate(what string) error {
	if p < Epsilon || p > Sample {
		return fmt.Errorf("%s: unknown prediction %d: want %d to %d", what, p, Epsilon, Sample)
	}
	return nil
}
