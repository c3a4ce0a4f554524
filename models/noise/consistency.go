package noise

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
)

// ConsistencyScheduler is the scheduler class of diffusers' consistency models in pixel space.
const ConsistencyScheduler = "CMStochasticIterativeScheduler"

// ConsistencyConfig is the scheduler_config.json of a CMStochasticIterativeScheduler: the noise levels that a consistency model was distilled
// or trained at, which sampling uses. Its timesteps are indices of these levels, from 0, the largest one.
type ConsistencyConfig struct {
	Class     string  `json:"_class_name"`
	Steps     int     `json:"num_train_timesteps"` // number of levels
	SigmaMin  float64 `json:"sigma_min"`           // the smallest level, at which the function is the identity
	SigmaMax  float64 `json:"sigma_max"`           // the largest level
	SigmaData float64 `json:"sigma_data"`          // standard deviation of the data's elements
	Noise     float64 `json:"s_noise"`             // factor of the noise that is added between steps
	Rho       float64 `json:"rho"`                 // the levels are evenly spaced in σ^(1/Rho)
	Clip      bool    `json:"clip_denoised"`       // clamp predictions of x_0 to [-1, 1]
}

// DefaultConsistency returns the class's defaults.
func DefaultConsistency() ConsistencyConfig {
	return ConsistencyConfig{Class: ConsistencyScheduler, Steps: 40, SigmaMin: 0.002, SigmaMax: 80, SigmaData: 0.5, Noise: 1, Rho: 7, Clip: true}
}

// ParseConsistencyConfig reads a scheduler_config.json of that class; missing keys have its defaults.
func ParseConsistencyConfig(data []byte) (ConsistencyConfig, error) {
	c := DefaultConsistency()
	if err := configjson.Check(data); err != nil {
		return c, fmt.Errorf("scheduler config: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("scheduler config: %w", quote.Error(err))
	}
	return c, c.Validate()
}

// Validate reports values that are out of range or not supported.
func (c ConsistencyConfig) Validate() error {
	bad := func(key string, value any, want string) error {
		return fmt.Errorf("scheduler config: %s is %s: want %s", key, quote.Text(fmt.Sprint(value)), want)
	}
	within := func(v, lo, hi float64) bool { return v >= lo && v <= hi } // false for NaN
	switch {
	case c.Class != ConsistencyScheduler:
		return bad("_class_name", c.Class, ConsistencyScheduler)
	case c.Steps < 2 || c.Steps > maxTrainSteps:
		return bad("num_train_timesteps", c.Steps, fmt.Sprintf("2 to %d", maxTrainSteps))
	case !within(c.SigmaMin, 1e-9, 1e6):
		return bad("sigma_min", c.SigmaMin, "a number above 0")
	case !(c.SigmaMax > c.SigmaMin && c.SigmaMax < 1e6):
		return bad("sigma_max", c.SigmaMax, "a number above sigma_min and below 1e6")
	case !within(c.SigmaData, 1e-6, 1e6):
		return bad("sigma_data", c.SigmaData, "a number from 1e-6 to 1e6")
	case c.Noise != 1:
		return bad("s_noise", c.Noise, "1, the only supported factor")
	case !within(c.Rho, 1e-2, 1e3):
		return bad("rho", c.Rho, "a number from 0.01 to 1000")
	}
	return nil
}

// Level returns the noise level of a timestep. The first and the last are exact.
func (c ConsistencyConfig) Level(timestep int) float64 {
	switch timestep {
	case 0:
		return c.SigmaMax
	case c.Steps - 1:
		return c.SigmaMin
	}
	hi, lo := math.Pow(c.SigmaMax, 1/c.Rho), math.Pow(c.SigmaMin, 1/c.Rho)
	return math.Pow(hi+float64(timestep)/float64(c.Steps-1)*(lo-hi), c.Rho)
}

// Spaced returns the levels of that many sampling steps, largest first: those of evenly spaced timesteps from 0 on, without the smallest
// level, where the function is the identity.
func (c ConsistencyConfig) Spaced(steps int) ([]float64, error) {
	if steps < 1 || steps > c.Steps {
		return nil, fmt.Errorf("want 1 to %d steps, as many as the model has timesteps, got %d", c.Steps, steps)
	}
	var at []float64
	for i := range steps {
		if t := i * (c.Steps / steps); t < c.Steps-1 {
			at = append(at, c.Level(t))
		}
	}
	return at, nil
}

// Levels returns the levels of timesteps, which are descending as in diffusers, largest level first: sampling begins with the last timestep.
func (c ConsistencyConfig) Levels(timesteps []int) ([]float64, error) {
	var at []float64
	for i, t := range timesteps {
		switch {
		case t < 0 || t >= c.Steps-1:
			return nil, fmt.Errorf("timestep %d: want 0 to %d", t, c.Steps-2)
		case i > 0 && t >= timesteps[i-1]:
			return nil, fmt.Errorf("timesteps %v: want descending timesteps", timesteps)
		}
	}
	for i := range timesteps {
		at = append(at, c.Level(timesteps[len(timesteps)-1-i]))
	}
	return at, nil
}
