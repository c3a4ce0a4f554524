package training

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// pair is the loss of consistency training and distillation: the distance of a consistency function's outputs at two points of a
// trajectory.
//
//	λ·d( f_θ(x_high, high), f_θ⁻(x_low, low) )        x_high = x + high·z
type pair struct {
	model, target models.ConsistencyFunction // target nil: the model itself; the target has no gradients
	lower         lowerPoint
	distance      Distance // nil: PseudoHuber
	weight        Weighting
	observe       func(levels []float64, each *torch.Tensor) // or nil: see Draws
}

// ConsistencyModel is a trainable consistency function: a *models.Consistency, a *models.Latent over the chain of a latent diffusion
// model, or a user's own type.
type ConsistencyModel interface {
	models.ConsistencyFunction
	Module
	// SigmaMinimum is the smallest noise level ε in training.
	SigmaMinimum() float64
}

var (
	_ ConsistencyModel = (*models.Consistency)(nil)
	_ ConsistencyModel = (*models.Latent)(nil)
)

// lowerPoint returns the point at the lower level on the trajectory through x_high.
type lowerPoint func(s *torch.Scope, p points) *torch.Tensor

// points has the points of a batch's trajectories. Levels are tensors [B].
type points struct {
	clean, noise, xHigh *torch.Tensor
	high, low           *torch.Tensor
	cond                models.Cond // without dropout
}

// sameNoise is x + low·z: an unbiased estimate of the trajectory's direction, which becomes exact as low approaches high.
func sameNoise(s *torch.Scope, p points) *torch.Tensor { return noisy(s, p.clean, p.noise, p.low) }

// noisy returns x + t·z for t [B].
func noisy(s *torch.Scope, x, z, t *torch.Tensor) *torch.Tensor {
	return x.Add(s, z.Mul(s, t.PerSample(s, x.NDim())))
}

// loss returns the mean over the batch. Both networks draw the same dropout masks, from one seed.
func (p pair) loss(s *torch.Scope, b Batch, low, high []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	at := func(s *torch.Scope, levels []float64) *torch.Tensor {
		return torch.FromSlice(s, levels).To(s, b.X.DType())
	}
	t := at(s, high)
	x := noisy(s, b.X, z, t)
	target := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		f := p.target
		if f == nil {
			f = p.model
		}
		next := at(s, low)
		return f.Origin(s, p.lower(s, points{b.X, z, x, t, next, b.Cond}), next, b.masked(dropout))
	})
	distance := p.distance
	if distance == nil {
		distance = PseudoHuber{}
	}
	d := distance.Distance(s, p.model.Origin(s, x, t, b.masked(dropout)), target)
	if p.observe != nil {
		p.observe(high, d)
	}
	if p.weight == InverseGap {
		w := make([]float64, len(low))
		for i := range w {
			w[i] = 1 / (high[i] - low[i])
		}
		d = d.Mul(s, at(s, w))
	}
	return b.mean(s, d)
}

// Weighting is a rule for λ(t_n, t_{n+1}).
type Weighting int

// The weightings of consistency training.
const (
	Unit       Weighting = iota // λ = 1, the published method
	InverseGap                  // λ = 1/(t_{n+1} - t_n), the improved one
)
