package evaluation

import "github.com/onestep-go/onestep/torch"

// Neighbours compares single images by their k nearest neighbours.
type Neighbours struct {
	K int // 0: 5
}

// Manifold is how two sets of images overlap.
type Manifold struct {
	Precision float64 // fraction of generated images within the radius of a real one, its distance to its K-th neighbour among the real
	Recall    float64 // fraction of real images within the radius of a generated one
	Density   float64 // number of real images whose radius holds a generated one, over K: 1 is like the data, and it may be more
	Coverage  float64 // fraction of real images with a generated one within their radius
}

// Compare returns precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of generated features [m, D]
// against real ones [n, D]. Both sets need more than K images. Memory is that of an n×m matrix of float64.
func (c Neighbours) Compare(s *torch.Scope, real, generated *torch.Tensor) (m Manifold, err error) {
	k := c.K
	if k == 0 {
		k = 5
	}
	if err := pair(real, generated, k+1); err != nil {
		return m, err
	}
	err = s.NoGrad(func(s *torch.Scope) error {
		x, y := real.To(s, torch.Float64), generated.To(s, torch.Float64)
		inX, inY := radii(s, x, k), radii(s, y, k)
		d := distances(s, x, y) // [n, m]
		near := d.Lt(s, inX.Unsqueeze(s, 1))
		least := d.MinDim(s, false, 1)
		within := func(t *torch.Tensor, dim int) *torch.Tensor {
			return t.To(s, torch.Float64).SumDim(s, false, dim).GtScalar(s, 0)
		}
		mean := func(t *torch.Tensor) float64 { return t.To(s, torch.Float64).Mean(s).Item() }
		m = Manifold{
			Precision: mean(within(near, 0)),
			Recall:    mean(within(d.Lt(s, inY.Unsqueeze(s, 0)), 1)),
			Density:   near.To(s, torch.Float64).SumDim(s, false, 0).Mean(s).Item() / float64(k),
			Coverage:  mean(least.Lt(s, inX)),
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
		d, at := distances(s, generated.To(s, torch.Float64), real.To(s, torch.Float64)).Sort(s, 1, false)
		places, distance = torch.ToSlice[int64](at.Select(s, 1, 0).Contiguous(s)), torch.ToSlice[float64](d.Select(s, 1, 0).Contiguous(s))
		return nil
	})
	return places, distance, err
}

// distances returns the Euclidean distances [n, m] of features [n, D] and [m, D].
func distances(s *torch.Scope, x, y *torch.Tensor) *torch.Tensor {
	const exact = 2 // differences, not the faster x² + y² - 2xy, whose rounding hides small distances
	out, err := torch.Call(s, "aten::cdist", x, y, 2.0, exact)
	if err != nil {
		panic(err)
	}
	return out[0].(*torch.Tensor)
}

// radii returns each feature's distance to its k-th nearest neighbour in the same set, [n].
func radii(s *torch.Scope, x *torch.Tensor, k int) *torch.Tensor {
	d, _ := distances(s, x, x).Sort(s, 1, false)
	return d.Select(s, 1, k).Clone(s) // the nearest is the feature itself
}
