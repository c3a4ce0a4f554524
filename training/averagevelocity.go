package training

import (
	"math"
	"math/rand/v2"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// span holds some of a batch's samples on the straight lines between data and noise, with the times r ≤ τ between which a network's
// average velocity is trained:
//
//	y = (1-τ)·x + τ·z        v = z - x
type span struct {
	rows  *torch.Tensor // their places in the batch, int64 [n]
	y, v  *torch.Tensor // [n, ...]
	r, at *torch.Tensor // r and τ, [n]
	cond  models.Cond   // with dropout masks
	apart bool          // r < τ for all samples; otherwise r = τ for all
}

// ofRows returns those elements of v, of the whole batch, that belong to the samples, as [n].
func (p span) ofRows(s *torch.Scope, v []float64) *torch.Tensor {
	return torch.FromSlice(s, v).IndexSelect(s, 0, p.rows).To(s, p.y.DType())
}

// average returns u(y, r, τ).
func (p span) average(s *torch.Scope, m *models.MeanFlow) *torch.Tensor {
	return m.AverageVelocity(s, p.y, p.r, p.at, p.cond)
}

// derivative returns d/dτ u(y, r, τ) along (velocity, 0, 1), by one forward-mode pass, which has no mixed precision.
func (p span) derivative(s *torch.Scope, m *models.MeanFlow, velocity *torch.Tensor) *torch.Tensor {
	p.cond.Precision = torch.Float32
	_, du := torch.JVP(s, func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
		return m.AverageVelocity(s, in[0], in[1], in[2], p.cond)
	}, []*torch.Tensor{p.y, p.r, p.at}, []*torch.Tensor{velocity, nil, torch.Ones(s, p.at.DType(), p.at.Dim(0))})
	return du
}

// instant is the target in the limit of a short first step (Geng et al. 2025, eq. 10): v - (τ-r)·d/dτ u along (velocity, 0, 1), and v where
// r is τ. It has no gradients.
func (p span) instant(s *torch.Scope, m *models.MeanFlow, velocity *torch.Tensor) *torch.Tensor {
	if !p.apart {
		return p.v
	}
	return s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		return p.v.Sub(s, p.derivative(s, m, velocity).Mul(s, p.at.Sub(s, p.r).PerSample(s, p.y.NDim())))
	})
}

// stepped is the target of a first step along velocity, which takes a part of each sample's way from τ to r, [n] above 0, and the model's
// jump over the rest, without gradients (Zhang et al. 2025, eq. 8):
//
//	part·velocity + (1-part)·u⁻(y - (τ-m)·velocity, r, m)        m = τ - part·(τ-r)
func (p span) stepped(s *torch.Scope, m *models.MeanFlow, velocity, part *torch.Tensor) *torch.Tensor {
	return s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		gap := p.at.Sub(s, p.r).Mul(s, part)
		rest := m.AverageVelocity(s, p.y.Sub(s, velocity.MulPerSample(s, gap)), p.r, p.at.Sub(s, gap), p.cond)
		return rest.Add(s, velocity.Sub(s, rest).MulPerSample(s, part))
	})
}

// inParts returns the mean of the losses of a batch's samples for given times r ≤ tau [B] and noise z, of the samples' shape. losses
// returns those of samples that either all have r = τ or all r < τ, which may have no gradients for any other part.
func inParts(s *torch.Scope, b Batch, r, tau []float64, z *torch.Tensor, dropout uint64, losses func(p span) *torch.Tensor) *torch.Tensor {
	var same, differ []int64
	for i := range tau {
		if r[i] == tau[i] {
			same = append(same, int64(i))
		} else {
			differ = append(differ, int64(i))
		}
	}
	var parts, weights []*torch.Tensor
	for i, places := range [][]int64{same, differ} {
		if len(places) == 0 {
			continue
		}
		p := span{rows: torch.FromSlice(s, places), apart: i == 1}
		x, noise := b.X.IndexSelect(s, 0, p.rows), z.IndexSelect(s, 0, p.rows)
		p.y = x // for its type
		p.r, p.at = p.ofRows(s, r), p.ofRows(s, tau)
		p.cond = Batch{Cond: b.Cond.Rows(s, p.rows)}.masked(dropout + uint64(i))
		p.y, p.v = models.Interpolate(s, x, noise, p.at), noise.Sub(s, x)
		parts = append(parts, losses(p))
		if b.Weight != nil {
			weights = append(weights, b.Weight.IndexSelect(s, 0, p.rows))
		}
	}
	if b.Weight != nil {
		b.Weight = torch.Cat(s, weights, 0) // in the order of the parts
	}
	return b.mean(s, torch.Cat(s, parts, 0))
}

// sumOfSquares returns ‖x‖² of each sample, [B].
func sumOfSquares(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return x.Square(s).Flatten(s, 1, -1).SumDim(s, false, 1)
}

// adaptive returns square/(square + c)^p, where the denominator has no gradients: the adaptive loss weight of Geng et al. 2025, eq. 22.
func adaptive(s *torch.Scope, square *torch.Tensor, c, p float64) *torch.Tensor {
	return square.Div(s, square.Detach(s).AddScalar(s, c).PowScalar(s, p))
}

// secant returns the loss of Δ, the difference between u and a target whose first step takes a part of the way, [n]:
//
//	‖Δ‖²/part / (‖Δ‖²/part² + c)^p
//
// Δ/part is what Δ is for a derivative, so that for part → 0 the gradient becomes that of adaptive, for any power.
func secant(s *torch.Scope, square, part *torch.Tensor, c, p float64) *torch.Tensor {
	weight := square.Detach(s).Div(s, part.Square(s)).AddScalar(s, c).PowScalar(s, p)
	return square.Div(s, part.Mul(s, weight))
}

// logitNormal draws a time 1/(1 + e^-n) with n normal of that mean and standard deviation.
func logitNormal(host *rand.Rand, mean, std float64) float64 {
	return 1 / (1 + math.Exp(-mean-std*host.NormFloat64()))
}
