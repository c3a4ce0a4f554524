package evaluation

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// Extractor maps RGB images [B, 3, H, W] in [-1, 1] to features [B, D].
type Extractor interface {
	Features(s *torch.Scope, images *torch.Tensor) *torch.Tensor
}

// Moments are the mean and covariance of N feature vectors of D elements.
type Moments struct {
	N    int64
	Mean []float64 // [D]
	Cov  []float64 // [D, D], with the factor 1/(N-1)
}

// Collector adds up the features of a set of images. Close frees it.
type Collector struct {
	keep  int
	scope *torch.Scope

	mu    sync.Mutex
	n     int64
	shift *torch.Tensor   // [D]: the first row, subtracted from all, so that large means cost no digits
	sum   *torch.Tensor   // [D]: Σ x - shift
	outer *torch.Tensor   // [D, D]: Σ (x-shift)(x-shift)ᵀ
	rows  []*torch.Tensor // the first rows, at most keep
	kept  int
}

// NewCollector makes a collector that keeps the features of at most keep images, besides their moments.
func NewCollector(keep int) *Collector {
	return &Collector{keep: keep, scope: torch.NewScope(torch.CPU)}
}

// Add adds the features of a batch [B, D], of any floating-point type and device. NaN and infinite features are an error, and add nothing.
func (c *Collector) Add(features *torch.Tensor) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.scope.NoGrad(func(s *torch.Scope) error {
		if features.NDim() != 2 || features.Dim(0) == 0 {
			return fmt.Errorf("evaluation: want features [B, D], got %v", features.Shape())
		}
		x := features.Detach(s).ToDevice(s, torch.CPU).To(s, torch.Float64)
		if n := torch.CountNonFinite(s, []*torch.Tensor{x}); n > 0 {
			return fmt.Errorf("evaluation: %d of %d features are NaN or infinite", n, x.NumEl())
		}
		d := x.Dim(1)
		if c.n == 0 {
			c.shift = x.Select(s, 0, 0).Clone(c.scope)
			c.sum = torch.Zeros(c.scope, torch.Float64, d)
			c.outer = torch.Zeros(c.scope, torch.Float64, d, d)
		}
		if have := c.shift.Dim(0); have != d {
			return fmt.Errorf("evaluation: want %d features as before, got %d", have, d)
		}
		if rows := min(c.keep-c.kept, x.Dim(0)); rows > 0 {
			c.rows = append(c.rows, x.Narrow(s, 0, 0, rows).Clone(c.scope))
			c.kept += rows
		}
		y := x.Sub(s, c.shift)
		c.sum.AddInPlace(s, y.SumDim(s, false, 0))
		c.outer.AddInPlace(s, y.Transpose(s, 0, 1).MatMul(s, y))
		c.n += int64(x.Dim(0))
		return nil
	})
}

// N returns the number of images added.
func (c *Collector) N() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// Moments returns the moments of all features added so far, of two images at least.
func (c *Collector) Moments() (m Moments, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n < 2 {
		return m, fmt.Errorf("evaluation: moments need at least 2 images, got %d", c.n)
	}
	err = c.scope.NoGrad(func(s *torch.Scope) error {
		mean := c.sum.DivScalar(s, float64(c.n))
		cov := c.outer.Sub(s, mean.Unsqueeze(s, 1).MatMul(s, mean.Unsqueeze(s, 0)).MulScalar(s, float64(c.n))).DivScalar(s, float64(c.n-1))
		m = Moments{N: c.n, Mean: torch.ToSlice[float64](mean.Add(s, c.shift)), Cov: torch.ToSlice[float64](cov)}
		return nil
	})
	return m, err
}

// Rows returns the kept features [n, D] in float64.
func (c *Collector) Rows(s *torch.Scope) (*torch.Tensor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rows) == 0 {
		return nil, errors.New("evaluation: no features were kept")
	}
	return torch.Cat(s, c.rows, 0), nil
}

// Close frees the collector's memory.
func (c *Collector) Close() { c.scope.Close() }

// check reports moments that cannot be those of a set.
func (m Moments) check(which string) error {
	d := len(m.Mean)
	switch {
	case d == 0 || len(m.Cov) != d*d:
		return fmt.Errorf("evaluation: the %s moments have a mean of %d and a covariance of %d elements: want D and D²", which, d, len(m.Cov))
	case m.N < 2:
		return fmt.Errorf("evaluation: the %s moments are of %d images: want at least 2", which, m.N)
	}
	for name, values := range map[string][]float64{"mean": m.Mean, "covariance": m.Cov} {
		for _, v := range values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("evaluation: the %s %s has NaN or infinite elements", which, name)
			}
		}
	}
	return nil
}
