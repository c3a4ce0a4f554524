package training

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// CT is consistency training (Song et al. 2023, algorithm 3): without a teacher, the model is trained to give the same output at two
// neighbouring noise levels, for the same image and noise:
//
//	L = λ·d( f_θ(x + t_{n+1}·z, t_{n+1}), f_θ⁻(x + t_n·z, t_n) )
//
// With Doubling, LogNormal, InverseGap and PseudoHuber it is improved consistency training (iCT, Song & Dhariwal 2023).
type CT struct {
	Model    ConsistencyModel  // trained model
	Target   ConsistencyModel  // target network, EMA of the model with the schedule's decay; nil: the model itself without gradients
	Schedule Schedule          // N(k), μ(k)
	Distance Distance          // nil: PseudoHuber
	Index    IndexDistribution // distribution of a sample's pair of levels; nil: uniform
	Weight   Weighting         // loss weight λ

	SigmaMax float64 // the largest noise level; 0: the model's own, if it has a method SigmaMaximum, or 80
	Rho      float64 // the spacing of the levels; 0: 7

	target target // updates Target
}

// IndexDistribution draws the index n of a pair of levels (t_n, t_{n+1}).
type IndexDistribution interface {
	// Draw returns n in [0, len(levels)-2]; levels ascend.
	Draw(r *rand.Rand, levels []float64) int
}

// Uniform draws all pairs of levels with equal probability.
type Uniform struct{}

// Draw returns a uniform index.
func (Uniform) Draw(r *rand.Rand, levels []float64) int { return r.IntN(len(levels) - 1) }

// LogNormal is a discretised log-normal distribution of noise levels (Song & Dhariwal 2023, eq. 10):
//
//	p(n) ∝ erf((ln t_{n+1} - mean)/(√2·std)) - erf((ln t_n - mean)/(√2·std))
type LogNormal struct {
	Mean, Std float64 // both 0: -1.1 and 2.0
}

// Draw inverts the cumulative distribution.
func (l LogNormal) Draw(r *rand.Rand, levels []float64) int {
	if l == (LogNormal{}) {
		l = LogNormal{-1.1, 2.0}
	}
	cdf := func(t float64) float64 { return math.Erf((math.Log(t) - l.Mean) / (math.Sqrt2 * l.Std)) }
	lo, hi := cdf(levels[0]), cdf(levels[len(levels)-1])
	u := lo + r.Float64()*(hi-lo)
	a, b := 0, len(levels)-1
	for b-a > 1 {
		if m := (a + b) / 2; cdf(levels[m]) <= u {
			a = m
		} else {
			b = m
		}
	}
	return a
}

func (c *CT) levels(k int) ([]float64, float64) {
	n, decay := c.Schedule.At(k)
	return noise.Karras(n, c.Model.SigmaMinimum(), c.sigmaMax(), cmp.Or(c.Rho, 7)), decay
}

func (c *CT) sigmaMax() float64 {
	if c.SigmaMax != 0 {
		return c.SigmaMax
	}
	if m, ok := c.Model.(interface{ SigmaMaximum() float64 }); ok {
		return m.SigmaMaximum()
	}
	return 80
}

// Loss draws a pair of levels and a noise for each sample and returns the mean weighted distance.
func (c *CT) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	low, high := c.draw(k, b, d)
	return c.pair(sameNoise, d.Observe).loss(s, b, low, high, d.Noise(s, b.X), d.Dropout)
}

// draw returns a pair of levels for each sample.
func (c *CT) draw(k int, b Batch, d Draws) (low, high []float64) {
	levels, _ := c.levels(k)
	index := c.Index
	if index == nil {
		index = Uniform{}
	}
	n := b.X.Dim(0)
	low, high = make([]float64, n), make([]float64, n)
	for i := range low {
		j := index.Draw(d.Samples[i], levels)
		low[i], high[i] = levels[j], levels[j+1]
	}
	return low, high
}

// LossAt is the loss for given levels low < high [B] and noise z, of the images' shape. Model and target use the same dropout masks,
// drawn from the seed: with different masks the method does not converge.
func (c *CT) LossAt(s *torch.Scope, b Batch, low, high []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return c.pair(sameNoise, nil).loss(s, b, low, high, z, dropout)
}

func (c *CT) pair(lower lowerPoint, observe func([]float64, *torch.Tensor)) pair {
	p := pair{model: c.Model, lower: lower, distance: c.Distance, weight: c.Weight, observe: observe}
	if c.Target != nil {
		p.target = c.Target
	}
	return p
}

// Update updates the target: θ⁻ ← μ(k)·θ⁻ + (1-μ(k))·θ. Validate has to be called before.
func (c *CT) Update(s *torch.Scope, k int) {
	if c.Target == nil {
		return
	}
	_, decay := c.Schedule.At(k)
	c.target.move(s, "consistency training", decay)
}

// State yields the target's weights.
func (c *CT) State() iter.Seq2[string, *torch.Tensor] {
	if c.Target == nil {
		return fixed{}.State()
	}
	return prefixed("target.", c.Target.Parameters())
}

// Stats returns N(k) as "levels" and μ(k) as "decay".
func (c *CT) Stats(k int) map[string]float64 {
	n, decay := c.Schedule.At(k)
	return map[string]float64{"levels": float64(n), "decay": decay}
}

// Metadata describes a snapshot's model, so that checkpoint.Open can read it; nothing for a network of the user's own.
func (c *CT) Metadata(step int, images int64) (map[string]string, error) {
	name := "ct"
	if c.Target == nil && c.Weight == InverseGap {
		name = "ict"
	}
	return metadata(c.Model, name, c.sigmaMax(), step, images)
}

// Validate reports missing parts and values out of range. The trainer calls it before the first step.
func (c *CT) Validate() error {
	if c.Model == nil {
		return fmt.Errorf("consistency training: no model")
	}
	if v, ok := c.Model.(Validator); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("consistency training: %w", err)
		}
	}
	if c.Schedule == nil {
		return fmt.Errorf("consistency training: no schedule: use Progressive, or Doubling with no target")
	}
	for _, k := range []int{0, math.MaxInt} {
		if n, decay := c.Schedule.At(k); n < 2 || !(decay >= 0 && decay <= 1) {
			return fmt.Errorf("consistency training: the schedule has %d levels and decay %g at step %d: want at least 2 levels and a decay in [0, 1]", n, decay, k)
		}
	}
	if l, ok := c.Index.(LogNormal); ok && l != (LogNormal{}) && !(l.Std > 0) {
		return fmt.Errorf("consistency training: the log-normal distribution has standard deviation %g: want more than 0", l.Std)
	}
	if c.Target == nil {
		return nil
	}
	return c.target.bind("consistency training", c.Target, c.Model)
}
