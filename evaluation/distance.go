package evaluation

import (
	"context"
	"fmt"
	"image"

	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/torch"
)

// Measure is one of the distances of a [Report] alone, for programs that compare many sets of generated images, such as a search. Smaller is
// better.
type Measure string

// Measures.
const (
	FD  Measure = "fd"  // squared Fréchet distance
	KID Measure = "kid" // kernel distance
	SWD Measure = "swd" // sliced Wasserstein distance
)

// MeasureNames lists the measures.
func MeasureNames() []string { return []string{string(FD), string(KID), string(SWD)} }

// In returns the measure's value in a report.
func (m Measure) In(r Report) float64 {
	switch m {
	case KID:
		return r.Generated.Kernel
	case SWD:
		return r.Generated.Sliced
	}
	return r.Generated.Frechet
}

// Distance is the value of one measure that Compare has in its report, in a fraction of its time: all of it goes into the images' features.
// Of the options it uses Rows, Kernel, Sliced, OtherSize and Progress.
func (r *Reference) Distance(ctx context.Context, by Measure, generated Images, o Options) (d float64, err error) {
	keep := o.Rows
	switch {
	case by != FD && by != KID && by != SWD:
		return 0, fmt.Errorf("evaluation: measure: %s", suggest.OneOf(string(by), MeasureNames()))
	case o.Rows < 0:
		return 0, fmt.Errorf("evaluation: want a positive number of rows, got %d", o.Rows)
	case by == FD:
		keep = 0
	case keep == 0:
		keep = defaultRows
	}
	all := NewCollector(keep)
	defer all.Close()
	sums := &bundle{each: func(_ *torch.Scope, _ int, x *torch.Tensor) error { return all.Add(x) }}
	defer sums.close()
	_, err = r.Features.batches(ctx, generated, r.batch, func(_ *torch.Scope, first int, images []image.Image, x *torch.Tensor) error {
		if err := r.takes(images, x, o); err != nil {
			return err
		}
		if o.Progress != nil {
			o.Progress(first + len(images))
		}
		return sums.add(x)
	})
	if err == nil {
		err = sums.flush()
	}
	if err != nil {
		return 0, err
	}
	return d, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			if by == FD {
				m, err := all.Moments()
				if err != nil {
					return err
				}
				from, err := r.origin()
				if err != nil {
					return err
				}
				d, err = from.distance(m)
				return err
			}
			rows, err := all.Rows(s)
			if err != nil {
				return err
			}
			if by == SWD {
				d, err = o.Sliced.Distance(s, r.rows, rows)
				return err
			}
			d, _, err = o.Kernel.Distance(s, r.rows, rows)
			return err
		})
	})
}
