package sampling

import (
	"context"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// Multistep samples from a consistency function (Song et al. 2023, algorithm 1): it applies the function at the largest noise level, then
// for each further level t adds noise of variance t² - ε² and applies the function again. No noise is added for a level of ε or less, such
// as 0: the levels 80 and 0 sample in one step.
type Multistep struct {
	SigmaMin float64 // ε, the level at which the function is the identity; 0: 0.002
	Clamp    bool    // clamp each result to [-1, 1] before noise is added
}

// Levels returns the usual noise levels of few-step sampling, from the largest level down to 0. For a largest level of 80 they are 80 and 0
// for one step, 80, 0.8 and 0 for two, and Karras's levels and 0 for more.
func Levels(largest float64, steps int) []float64 {
	switch {
	case steps <= 1:
		return []float64{largest, 0}
	case steps == 2:
		return []float64{largest, largest / 100, 0}
	}
	up := noise.Karras(steps+1, 0.002, largest, 7)
	levels := make([]float64, steps+1)
	for i := range steps {
		levels[i] = up[len(up)-1-i]
	}
	return levels
}

// Validate returns an error for invalid settings or noise levels.
func (m Multistep) Validate(levels []float64) error {
	eps := m.sigmaMin()
	if !(eps > 0) {
		return fmt.Errorf("minimum noise level: want more than 0, got %g", eps)
	}
	if err := descending(levels); err != nil {
		return err
	}
	if n := len(levels); n > 1 && levels[n-2] <= eps {
		return fmt.Errorf("noise levels: want all but the last above the minimum level %g, got %g", eps, levels[n-2])
	}
	return nil
}

func (m Multistep) sigmaMin() float64 {
	if m.SigmaMin == 0 {
		return 0.002
	}
	return m.SigmaMin
}

// Sample takes x [B, ...] at noise level o.Levels[0] to the last level. Values of the result may be outside [-1, 1].
func (m Multistep) Sample(ctx context.Context, s *torch.Scope, f models.ConsistencyFunction, x *torch.Tensor, o Options) (*torch.Tensor, error) {
	if err := m.Validate(o.Levels); err != nil {
		return nil, err
	}
	eps := m.sigmaMin()
	noisy := len(o.Levels) > 2 || len(o.Levels) == 2 && o.Levels[1] > eps
	return walk{Options: o, noisy: noisy, step: func(s *torch.Scope, i int, x *torch.Tensor, _ []*torch.Tensor) (next, origin *torch.Tensor) {
		origin = f.Origin(s, x, torch.Full(s, o.Levels[i], x.DType(), x.Dim(0)), o.Cond)
		u := o.Levels[i+1]
		if u <= eps {
			return origin, origin
		}
		next = origin
		if m.Clamp {
			next = origin.Clamp(s, -1, 1)
		}
		return o.addNoise(s, next, math.Sqrt(u*u-eps*eps)), origin
	}}.from(ctx, s, x)
}

// Evaluations returns 1 per step.
func (Multistep) Evaluations(levels []float64) int { return max(len(levels)-1, 0) }
