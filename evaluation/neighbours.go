package evaluation

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
)

// Neighbours compares single images by their k nearest neighbours.
type Neighbours struct {
	K int // 0: 5
}

// Manifold is how two sets of images overlap.
type Manifold struct {
	Precision float64 `json:"precision"` // fraction of generated images within the radius of a real one, its distance to its K-th neighbour among the real
	Recall    float64 `json:"recall"`    // fraction of real images within the radius of a generated one
	Density   float64 `json:"density"`   // number of real images whose radius holds a generated one, over K: 1 is like the data, and it may be more
	Coverage  float64 `json:"coverage"`  // fraction of real images with a generated one within their radius
}

// block is the number of images whose distances to all others are in memory at once.
const block = 512

// Compare returns precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of generated features [m, D]
// against real ones [n, D]. Both sets need more than K images. Memory is that of float64 copies of both, and time grows with n² + n·m + m².
func (c Neighbours) Compare(s *torch.Scope, real, generated *torch.Tensor) (m Manifold, err error) {
	k := c.K
	if k == 0 {
		k = 5
	}
	if k < 1 {
		return m, fmt.Errorf("evaluation: want at least 1 neighbour, got %d", k)
	}
	if err := pair(real, generated, k+1); err != nil {
		return m, err
	}
	err = s.NoGrad(func(s *torch.Scope) error {
		x, y := centred(s, real, generated)
		inX, inY := radii(s, x, k), radii(s, y, k)
		sum := func(s *torch.Scope, t *torch.Tensor, dim int) *torch.Tensor {
			return t.To(s, torch.Float64).SumDim(s, false, dim)
		}
		held := torch.Zeros(s, torch.Float64, y.Dim(0)) // for each generated image, the real ones whose radius holds it
		var recalled, covered float64
		blocks(s, x, func(s *torch.Scope, at int, part *torch.Tensor) {
			d := distances(s, part, y)
			radius := inX.Narrow(s, 0, at, part.Dim(0))
			near := d.Lt(s, radius.Unsqueeze(s, 1))
			held.AddInPlace(s, sum(s, near, 0))
			recalled += sum(s, d.Lt(s, inY.Unsqueeze(s, 0)), 1).GtScalar(s, 0).To(s, torch.Float64).Sum(s).Item()
			covered += d.MinDim(s, false, 1).Lt(s, radius).To(s, torch.Float64).Sum(s).Item()
		})
		n := float64(x.Dim(0))
		m = Manifold{
			Precision: held.GtScalar(s, 0).To(s, torch.Float64).Mean(s).Item(),
			Recall:    recalled / n,
			Density:   held.Mean(s).Item() / float64(k),
			Coverage:  covered / n,
		}
		return nil
	})
	return m, err
}

// Nearest returns for each of the generated features [m, D] the index of the nearest real one [n, D] and their distance: a model that
// repeats its data has many small ones.
func Nearest(s *torch.Scope, real, generated *torch.Tensor) (places []int64, distance []float64, err error) {
	if err := pair(real, generated, 1); err != nil {
		return nil, nil, err
	}
	err = s.NoGrad(func(s *torch.Scope) error {
		x, y := centred(s, real, generated)
		blocks(s, y, func(s *torch.Scope, _ int, part *torch.Tensor) {
			_, at := closest(s, distances(s, part, x), 1)
			at = at.Reshape(s, -1)
			// From the difference itself: in the distances above small ones are lost in rounding.
			d := part.Sub(s, x.IndexSelect(s, 0, at)).Square(s).SumDim(s, false, 1).Sqrt(s)
			places, distance = append(places, torch.ToSlice[int64](at)...), append(distance, torch.ToSlice[float64](d)...)
		})
		return nil
	})
	return places, distance, err
}

// centred returns two sets of features in float64, less the mean of the first: distances stay the same, and keep their digits below.
func centred(s *torch.Scope, a, b *torch.Tensor) (x, y *torch.Tensor) {
	x = a.To(s, torch.Float64)
	mean := x.MeanDim(s, true, 0)
	return x.Sub(s, mean), b.To(s, torch.Float64).Sub(s, mean)
}

// blocks calls each with parts of x [n, D] from row at on, which are in memory one after the other.
func blocks(s *torch.Scope, x *torch.Tensor, each func(s *torch.Scope, at int, part *torch.Tensor)) {
	for at := 0; at < x.Dim(0); at += block {
		s.Tidy(func(s *torch.Scope) *torch.Tensor {
			each(s, at, x.Narrow(s, 0, at, min(block, x.Dim(0)-at)))
			return nil
		})
	}
}

// distances returns the Euclidean distances [n, m] of centred features [n, D] and [m, D], as roots of x² + y² - 2xy: a matrix product, which
// takes a twentieth of the time of differences. In float64 a distance of 0 is at most 1e-7 of the features' size.
func distances(s *torch.Scope, x, y *torch.Tensor) *torch.Tensor {
	const product = 1
	out, err := torch.Call(s, "aten::cdist", x, y, 2.0, product)
	if err != nil {
		panic(err)
	}
	return out[0].(*torch.Tensor)
}

// closest returns the k smallest of each row [n, k], in order, and their indices.
func closest(s *torch.Scope, d *torch.Tensor, k int) (values, places *torch.Tensor) {
	out, err := torch.Call(s, "aten::topk", d, k, 1, false, true)
	if err != nil {
		panic(err)
	}
	return out[0].(*torch.Tensor), out[1].(*torch.Tensor)
}

// radii returns each feature's distance to its k-th nearest neighbour in the same centred set, [n].
func radii(s *torch.Scope, x *torch.Tensor, k int) *torch.Tensor {
	var all []*torch.Tensor
	blocks(s, x, func(inner *torch.Scope, _ int, part *torch.Tensor) {
		d, _ := closest(inner, distances(inner, part, x), k+1) // the nearest is the feature itself
		all = append(all, d.Select(inner, 1, k).Clone(s))
	})
	return torch.Cat(s, all, 0)
}
