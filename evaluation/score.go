package evaluation

import (
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Score is the Inception Score (Salimans et al. 2016), of images alone: how sure a classifier is of each image, and how many classes there are
// among all. With p(y|x) the probabilities of the classes of image x and p(y) their mean over the images,
//
//	exp(mean over x of KL(p(y|x) ‖ p(y)))
//
// It is 1 at least and the number of classes at most. It uses no real images, and is that of papers only with the Inception network of FID.
type Score struct {
	Mean float64 `json:"mean"` // over 10 parts of the images
	Std  float64 `json:"std"`
}

// scoreParts is the number of parts that a score is computed of, and leastScored that of images in each.
const (
	scoreParts  = 10
	leastScored = 2
)

// scorer adds up the probabilities of the classes of images, in parts: image i belongs to part i modulo their number, which gives the same as
// shuffling them. Of a nil one, add does nothing, and there is no result.
type scorer struct {
	of    Features
	parts [scoreParts]struct {
		n       int
		sum     []float64 // of the probabilities
		entropy float64   // Σ p·log p
	}
}

// newScorer returns nil for features without logits.
func newScorer(f Features) *scorer {
	if f.Logits == nil {
		return nil
	}
	return &scorer{of: f}
}

// add adds the features [B, D] of images first, first+1, ...
func (c *scorer) add(first int, x *torch.Tensor) error {
	if c == nil {
		return nil
	}
	var p, entropy []float64
	classes := 0
	err := torch.Run(c.of.Device, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			y := c.of.Logits(s, x.ToDevice(s, c.of.Device).To(s, torch.Float32))
			return s.On(torch.CPU, func(s *torch.Scope) error {
				y := y.ToDevice(s, torch.CPU).To(s, torch.Float64)
				q := y.Softmax(s, 1)
				p, entropy, classes = torch.ToSlice[float64](q), torch.ToSlice[float64](q.Mul(s, y.LogSoftmax(s, 1)).SumDim(s, false, 1)), y.Dim(1)
				return nil
			})
		})
	})
	if err != nil {
		return err
	}
	for i, e := range entropy {
		part := &c.parts[(first+i)%scoreParts]
		if part.sum == nil {
			part.sum = make([]float64, classes)
		}
		for k, v := range p[i*classes:][:classes] {
			part.sum[k] += v
		}
		part.entropy += e
		part.n++
	}
	return nil
}

// result returns the score; nil: there are too few images.
func (c *scorer) result() *Score {
	if c == nil {
		return nil
	}
	var sum, squares float64
	for _, part := range c.parts {
		if part.n < leastScored {
			return nil
		}
		divergence := part.entropy / float64(part.n)
		for _, v := range part.sum {
			if q := v / float64(part.n); q > 0 {
				divergence -= q * math.Log(q)
			}
		}
		score := math.Exp(divergence)
		sum, squares = sum+score, squares+score*score
	}
	mean := sum / scoreParts
	return &Score{mean, math.Sqrt(max(0, squares/scoreParts-mean*mean))}
}
