package sampling

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// SigmaMax is the noise level that sampling starts from when nothing else is said.
const SigmaMax = 80

// Multistep samples from a consistency function (Song et al. 2023, algorithm 1): one evaluation at the largest noise
// level, then for each further level t noise of variance t² - ε² is added and the function applied again. The zero value
// is one-step sampling from noise level 80.
type Multistep struct {
	Times    []float64 // noise levels, largest first; nil: 80 alone
	SigmaMin float64   // ε, the level at which the function is the identity; 0: 0.002
	Clamp    bool      // limit each result to [-1, 1] before noise is added again
}

// Times returns the usual noise levels for that many steps: 80; 80 and 0.8; and for more steps Karras's spacing.
func Times(steps int) []float64 { return TimesFrom(SigmaMax, steps) }

// TimesFrom is [Times] for a model whose largest noise level is another.
func TimesFrom(largest float64, steps int) []float64 {
	switch {
	case steps <= 1:
		return []float64{largest}
	case steps == 2:
		return []float64{largest, largest / 100}
	}
	up := noise.Karras(steps+1, 0.002, largest, 7)
	times := make([]float64, steps)
	for i := range times {
		times[i] = up[len(up)-1-i]
	}
	return times
}

// Validate reports what cannot work.
func (m Multistep) Validate() error {
	if eps := m.sigmaMin(); !(eps > 0) {
		return fmt.Errorf("smallest noise level: want more than 0, got %g", eps)
	}
	if m.Times == nil {
		return nil
	}
	if err := descending(m.Times); err != nil {
		return err
	}
	if last := m.Times[len(m.Times)-1]; last <= m.sigmaMin() {
		return fmt.Errorf("noise levels: want all above the smallest level %g, got %g", m.sigmaMin(), last)
	}
	return nil
}

func (m Multistep) sigmaMin() float64 {
	if m.SigmaMin == 0 {
		return 0.002
	}
	return m.SigmaMin
}

// Sample draws one image of that shape [C, H, W] per stream and returns them, [B, C, H, W], owned by s. It stops between
// steps when ctx is done. Values may lie outside [-1, 1].
func (m Multistep) Sample(ctx context.Context, s *torch.Scope, f models.ConsistencyFunction, shape []int, streams noise.Streams, c models.Cond) (*torch.Tensor, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if len(streams) == 0 {
		return nil, errors.New("sampling: want at least one random stream, one for each image")
	}
	times, eps := m.Times, m.sigmaMin()
	if times == nil {
		times = Times(1)
	}
	var x0 *torch.Tensor
	err := s.NoGrad(func(s *torch.Scope) error {
		for i, t := range times {
			if err := ctx.Err(); err != nil {
				return err
			}
			next := s.Tidy(func(s *torch.Scope) *torch.Tensor {
				z := streams.Randn(s, torch.Float32, shape...)
				var x *torch.Tensor
				switch {
				case i == 0:
					x = z.MulScalar(s, t)
				case m.Clamp:
					x = x0.Clamp(s, -1, 1).Add(s, z.MulScalar(s, math.Sqrt(t*t-eps*eps)))
				default:
					x = x0.Add(s, z.MulScalar(s, math.Sqrt(t*t-eps*eps)))
				}
				return f.Origin(s, x, torch.Full(s, t, torch.Float32, len(streams)), c)
			})
			if x0 != nil {
				x0.Free()
			}
			x0 = next
		}
		s.Keep(x0)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return x0, nil
}
