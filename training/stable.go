package training

import (
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// StableECT is [ECT] with a target of lower variance: stable consistency tuning (Wang et al. 2024). The lower point of a pair does not go
// along the sample's own noise, but along the mean over all samples of the batch that the upper point x_t may come from:
//
//	x_r = x̂ + r/t·(x_t - x̂)        x̂ = Σ_j w_j·x_j        w_j ∝ exp(-‖x_t - x_j‖²/(2·t²))
//
// x̂ is the self-normalised estimate of E[x_0 | x_t], and (x_t - x̂)/t the ODE's slope, as in stable target fields (Xu et al. 2023). With a
// batch of one sample it is ECT, to the same bits. In a batch of class-conditional samples, x_j are those of the same class.
//
// A sample's target depends on the others of its batch, which gradient accumulation does not join: batches of n samples with k
// accumulation steps are not those of k·n samples. Only the target differs from ECT: the paper's schedule, its phases in time and its weight
// of the noise levels are not part of it.
type StableECT struct{ ECT }

// Loss draws a level and a noise for each sample and returns the mean weighted distance.
func (e *StableECT) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	low, high := e.draw(k, b, d)
	return e.loss(s, b, low, high, d.Noise(s, b.X), d)
}

// LossAt is the loss for given levels low < high [B] and noise z, of the images' shape.
func (e *StableECT) LossAt(s *torch.Scope, b Batch, low, high []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	return e.loss(s, b, low, high, z, Draws{Dropout: dropout})
}

func (e *StableECT) loss(s *torch.Scope, b Batch, low, high []float64, z *torch.Tensor, d Draws) *torch.Tensor {
	p := e.pair(d.Observe)
	p.lower = batchMean
	return p.loss(s, b, low, high, z, d.Dropout)
}

// batchMean is the point at the lower level on the line through x_high towards the batch's estimate of E[x_0 | x_high].
func batchMean(s *torch.Scope, p points) *torch.Tensor {
	own := sameNoise(s, p)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		// x̂ + r/t·(x_t - x̂) = x + r·z + (1 - r/t)·(x̂ - x)
		ahead := torch.Ones(s, p.high.DType(), p.high.Dim(0)).Sub(s, p.low.Div(s, p.high))
		return own.Add(s, towardsMean(s, p).MulPerSample(s, ahead))
	})
}

// towardsMean returns x̂ - x of each sample, [B, ...].
//
// The weights' logarithms are taken relative to the sample's own, which is then exactly 0:
//
//	ln w_j - ln w_i = -(‖x_i - x_j‖² + 2t·z_i·(x_i - x_j))/(2t²)
//
// They are computed in float64, since they divide by the square of a small level.
func towardsMean(s *torch.Scope, p points) *torch.Tensor {
	n := p.clean.Dim(0)
	x := p.clean.Flatten(s, 1, -1).To(s, torch.Float64)
	z := p.noise.Flatten(s, 1, -1).To(s, torch.Float64)
	t := p.high.To(s, torch.Float64).Unsqueeze(s, 1)
	products := x.MatMul(s, x.Transpose(s, 0, 1))
	square := x.Square(s).SumDim(s, true, 1)
	apart := square.Add(s, square.Transpose(s, 0, 1)).Sub(s, products.MulScalar(s, 2)) // ‖x_i - x_j‖²
	along := z.Mul(s, x).SumDim(s, true, 1).Sub(s, z.MatMul(s, x.Transpose(s, 0, 1)))  // z_i·(x_i - x_j)
	logs := apart.Add(s, along.Mul(s, t).MulScalar(s, 2)).Div(s, t.Square(s).MulScalar(s, -2))
	self := torch.Eye(s, n, torch.Float64)
	logs = logs.MaskedFill(s, self.NeScalar(s, 0), 0)
	if others := strangers(s, p.cond, n); others != nil {
		logs = logs.MaskedFill(s, others, math.Inf(-1))
	}
	mean := logs.Softmax(s, 1).Sub(s, self).MatMul(s, x) // Σ_j w_j·x_j - x_i
	return mean.To(s, p.clean.DType()).Reshape(s, p.clean.Shape()...)
}

// strangers marks the pairs of samples with different conditions, [B, B]; nil: there are none.
func strangers(s *torch.Scope, c models.Cond, n int) *torch.Tensor {
	class := c.Class
	c.Class, c.Guidance = nil, nil
	if !c.Empty() || c.Control != nil {
		panic(&torch.Error{Op: "stable consistency tuning", Msg: "the mean over a batch is defined for samples without conditions or with classes, not with text features: use easy consistency tuning"})
	}
	if class == nil || class.NDim() == 0 || class.Dim(0) == 1 {
		return nil
	}
	return class.Reshape(s, n, 1).Ne(s, class.Reshape(s, 1, n))
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (e *StableECT) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(e.Model, "stablect", 80, step, images)
}
