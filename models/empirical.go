package models

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Empirical is the exact denoiser of a finite data set, a teacher that needs no training (Karras et al. 2022, appendix B.3):
//
//	D(x; t) = Σ_i softmax_i(-|x - y_i|²/(2t²))·y_i
//
// Exponents are computed in float64 as (x·y_i - |y_i|²/2)/t², without |x|², which is the same for all i: in float32 the distance of
// two images, as a difference of large numbers, would have an error above t² for small t. The sums over i are float64 as well. They
// run over the data in chunks, with weights relative to the largest so far. At t = 0 the result is the nearest data point.
type Empirical struct {
	Data   *torch.Tensor // y, [N, ...], on the device of the samples
	Labels *torch.Tensor // classes of y, [N] int64; nil: none. A sample uses the data of its class; a negative class uses all data
	Chunk  int           // data points processed together; 0: as many as fit in some tens of megabytes

	half *torch.Tensor // |y_i|²/2, [N] float64: see Prepare
}

// Prepare computes |y_i|² once for all evaluations, into s, which must live as long as d; Data must not change afterwards. Results are the
// same with and without it, to the last bit. With small batches an evaluation spends most of its time on this and on the conversion of Data to
// float64, which Data of that type saves.
func (d *Empirical) Prepare(s *torch.Scope) {
	d.half = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		var parts []*torch.Tensor
		n := d.Data.Dim(0)
		step := d.chunk(d.Data.NumEl() / n)
		for start := 0; start < n; start += step {
			parts = append(parts, halfSquare(s, d.rows(s, start, min(step, n-start))))
		}
		return torch.Cat(s, parts, 0)
	})
}

// rows returns data points as rows of float64, [count, D].
func (d *Empirical) rows(s *torch.Scope, start, count int) *torch.Tensor {
	return d.Data.Narrow(s, 0, start, count).Reshape(s, count, -1).To(s, torch.Float64)
}

// halfSquare returns half of the squared norms of rows.
func halfSquare(s *torch.Scope, y *torch.Tensor) *torch.Tensor {
	return y.Square(s).SumDim(s, false, 1).MulScalar(s, 0.5)
}

var _ Denoiser = (*Empirical)(nil)

// excluded is the exponent of data of other classes: below all others, and finite, so that no difference is undefined.
const excluded = -1e300

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B], in x's type.
func (d *Empirical) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	checkLevels("empirical denoiser", x, t)
	if want := d.Data.Shape()[1:]; !slices.Equal(x.Shape()[1:], want) {
		msg := fmt.Sprintf("want samples of the data's shape %v, got %v", want, x.Shape()[1:])
		panic(&torch.Error{Op: "empirical denoiser", Msg: msg})
	}
	if c.Class != nil && d.Labels == nil {
		panic(&torch.Error{Op: "empirical denoiser", Msg: "a class was given (Cond.Class), but the data has no labels"})
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		batch, n := x.Dim(0), d.Data.Dim(0)
		flat := x.Reshape(s, batch, -1).To(s, torch.Float64)
		variance := t.To(s, torch.Float64).ClampMin(s, leastLevel).Square(s).Unsqueeze(s, 1)
		// The largest exponent so far, [B, 1]; relative to it, the sums of weights, [B, 1], and of weighted data, [B, D].
		top := torch.Full(s, excluded, torch.Float64, batch, 1)
		weight, sum := torch.Zeros(s, torch.Float64, batch, 1), torch.ZerosLike(s, flat)
		step := d.chunk(max(batch, flat.Dim(1)))
		for start := 0; start < n; start += step {
			count := min(step, n-start)
			sum = s.Tidy(func(s *torch.Scope) *torch.Tensor {
				y := d.rows(s, start, count)
				var half *torch.Tensor
				if d.half != nil {
					half = d.half.Narrow(s, 0, start, count)
				} else {
					half = halfSquare(s, y)
				}
				exponents := flat.MatMul(s, y.Transpose(s, 0, 1)).Sub(s, half).Div(s, variance)
				if c.Class != nil {
					exponents = exponents.MaskedFill(s, d.others(s, c.Class, start, count), excluded)
				}
				top2 := top.Maximum(s, exponents.MaxDim(s, true, 1))
				p, kept := exponents.Sub(s, top2).Exp(s), top.Sub(s, top2).Exp(s)
				top, weight = s.Keep(top2), s.Keep(weight.Mul(s, kept).Add(s, p.SumDim(s, true, 1)))
				return sum.Mul(s, kept).Add(s, p.MatMul(s, y))
			})
		}
		if c.Class != nil && top.Detach(s).Min(s).Item() <= excluded {
			panic(&torch.Error{Op: "empirical denoiser", Msg: "no data point has one of the given classes (Cond.Class)"})
		}
		return sum.Div(s, weight).To(s, x.DType()).Reshape(s, x.Shape()...)
	})
}

// others is the mask of data points of another class than the sample, [B, count].
func (d *Empirical) others(s *torch.Scope, class *torch.Tensor, start, count int) *torch.Tensor {
	of := class.Unsqueeze(s, 1)
	return d.Labels.Narrow(s, 0, start, count).Unsqueeze(s, 0).Ne(s, of).LogicalAnd(s, of.GeScalar(s, 0))
}

// chunk is the number of data points to process together when each needs width float64 numbers, or twice as many.
func (d *Empirical) chunk(width int) int {
	if d.Chunk > 0 {
		return d.Chunk
	}
	return max(1, (1<<22)/width)
}

// Validate reports missing data and tensors of a wrong type or shape.
func (d *Empirical) Validate() error {
	switch {
	case d.Data == nil:
		return errors.New("empirical denoiser: no data")
	case d.Data.NDim() < 2 || d.Data.NumEl() == 0 || !d.Data.DType().IsFloat():
		return fmt.Errorf("empirical denoiser: want floating-point data [N, ...] with N at least 1, got %v %v", d.Data.DType(), d.Data.Shape())
	case d.Chunk < 0:
		return fmt.Errorf("empirical denoiser: want a chunk size above 0, or 0 for the default, got %d", d.Chunk)
	case d.Labels != nil && (d.Labels.DType() != torch.Int64 || !slices.Equal(d.Labels.Shape(), d.Data.Shape()[:1])):
		return fmt.Errorf("empirical denoiser: want int64 labels [%d], got %v %v", d.Data.Dim(0), d.Labels.DType(), d.Labels.Shape())
	}
	return nil
}
