package evaluation

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Options say what is measured. The zero value measures everything with the usual settings.
type Options struct {
	Reference ReferenceOptions // of Compare

	Rows       int // number of generated images that are compared one by one, the first ones; 0: 10,000
	Kernel     Kernel
	Neighbours Neighbours
	Sliced     Sliced

	// Pairs is the number of generated images to return with their nearest real ones: those that are nearest to any.
	Pairs int
	// OtherSize allows generated images of another size in pixels than the real ones, whose details differ.
	OtherSize bool
	// Same tells which real images have the caption of a generated one; nil: caption agreement is not measured.
	Same Same

	Progress func(done int) // called with the number of generated images after each batch; may be nil
	Measure  func()         // called when all images are there, before what takes time then; may be nil
}

// Measures compare two sets of images, A and B, of which A are real images.
type Measures struct {
	A       int     `json:"real"`      // images
	B       int     `json:"generated"` // images
	Frechet float64 `json:"frechet"`   // squared Fréchet distance

	RowsA     int     `json:"real_rows"`      // images for what follows
	RowsB     int     `json:"generated_rows"` // images for what follows
	Kernel    float64 `json:"kernel"`         // KID
	KernelStd float64 `json:"kernel_std"`     // over its subsets
	Sliced    float64 `json:"sliced"`         // sliced 2-Wasserstein distance
	Manifold

	Score *Score `json:"inception_score,omitempty"` // of B alone; nil: the features have no logits, or there are fewer than 20 images
}

// Copies says how near generated images are to real ones, beside how near real ones are to each other. Of images that are new samples of the
// same distribution about 1 % are nearer than 99 % of the real images are to others, and so on; of a model that repeats its data far more.
type Copies struct {
	Median     float64 `json:"median"`      // distance of a generated image to the nearest real one
	MedianReal float64 `json:"median_real"` // distance of a real image to the nearest other one
	Below1     float64 `json:"below_1"`     // fraction of generated images nearer to a real one than the 1 % of real images that are nearest to others
	Below5     float64 `json:"below_5"`     // the same for 5 %
	Below50    float64 `json:"below_50"`    // the same for 50 %
	Closer     float64 `json:"closer"`      // fraction of generated images that are nearer to their nearest real image than any other real one is to it
}

// Report is the result of a comparison.
type Report struct {
	Features string `json:"features"` // such as "EffNetLite0"
	Resize   string `json:"resize"`   // such as "bicubic, antialiased, 224"

	Generated Measures  `json:"generated"`
	Interval  *Interval `json:"frechet_interval,omitempty"` // of the Fréchet distance, over the generated images; nil for fewer than 20

	// Floor is the same for real images in place of generated ones: as many, or half of all if there are not enough, against the others. A
	// perfect model reaches these numbers and no better ones.
	Floor Measures `json:"floor"`

	Copies    Copies     `json:"copies"`
	Agreement *Agreement `json:"caption_agreement,omitempty"`
	Pairs     []Pair     `json:"-"`
}

// Pair is a generated image and the real one nearest to it.
type Pair struct {
	Image    image.Image
	Index    int     // of the generated image
	Real     int     // index in the set
	Distance float64 // of their features
}

// Compare measures how generated images differ from a set of real ones. It is NewReference and Reference.Compare.
func Compare(ctx context.Context, f Features, set Set, generated Images, o Options) (Report, error) {
	r, err := NewReference(ctx, f, set, o.Reference)
	if err != nil {
		return Report{}, err
	}
	defer r.Close()
	return r.Compare(ctx, generated, o)
}

// Compare measures how generated images differ from the real ones. They are used as they come; memory does not grow with their number but
// for 16 bytes each. With an error the report is empty.
func (r *Reference) Compare(ctx context.Context, generated Images, o Options) (out Report, err error) {
	if o.Rows < 0 || o.Pairs < 0 {
		return out, fmt.Errorf("evaluation: want positive numbers of rows and pairs, got %d and %d", o.Rows, o.Pairs)
	}
	out.Features, out.Resize = r.Features.Name, r.Features.Resize
	keep := o.Rows
	if keep == 0 {
		keep = defaultRows
	}
	all, parts := NewCollector(keep), newJackknife()
	defer all.Close()
	defer parts.close()
	seen := newSeen(r, o)
	defer seen.close()
	scores := newScorer(r.Features)
	sums := &bundle{each: func(s *torch.Scope, first int, x *torch.Tensor) error {
		if err := all.Add(x); err != nil {
			return err
		}
		if err := scores.add(first, x); err != nil {
			return err
		}
		return parts.add(s, first, x)
	}}
	defer sums.close()
	_, err = r.Features.batches(ctx, generated, r.batch, func(s *torch.Scope, first int, images []image.Image, x *torch.Tensor) error {
		if err := r.takes(images, x, o); err != nil {
			return err
		}
		if err := sums.add(x); err != nil {
			return err
		}
		seen.add(s, first, images, x)
		if o.Progress != nil {
			o.Progress(first + len(images))
		}
		return nil
	})
	if err == nil {
		err = sums.flush()
	}
	if err != nil {
		return out, err
	}
	k := cmp.Or(o.Neighbours.K, 5)
	if all.N() <= int64(k) {
		return out, fmt.Errorf("evaluation: want more than %d generated images, got %d: as many neighbours of each are compared", k, all.N())
	}
	if o.Measure != nil {
		o.Measure()
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			rows, err := all.Rows(s)
			if err != nil {
				return err
			}
			m, err := all.Moments()
			if err != nil {
				return err
			}
			from, err := r.origin()
			if err != nil {
				return err
			}
			if out.Generated, err = o.measure(ctx, s, from, m, r.rows, rows); err != nil {
				return err
			}
			out.Generated.Score = scores.result()
			if out.Interval, err = parts.interval(from, m, out.Generated.Frechet); err != nil {
				return err
			}
			if out.Floor, err = r.floor(ctx, s, o, int(m.N)); err != nil {
				return err
			}
			return seen.finish(s, &out)
		})
	})
	if err != nil { // figures that were not reached are not zero
		return Report{}, err
	}
	return out, nil
}

// floor measures real images against the others.
func (r *Reference) floor(ctx context.Context, s *torch.Scope, o Options, n int) (out Measures, err error) {
	kept := r.rows.Dim(0)
	if n = min(n, r.Images/2, kept/2); n < leastImages/2 {
		n = leastImages / 2
	}
	r.memo.mu.Lock()
	defer r.memo.mu.Unlock()
	key := floorKey{n, o.Kernel, o.Neighbours, o.Sliced}
	if out, ok := r.memo.floor[key]; ok {
		return out, nil
	}
	held := NewCollector(0)
	defer held.Close()
	part := r.rows.Narrow(s, 0, 0, n)
	if err := held.Add(part); err != nil {
		return out, err
	}
	m, err := held.Moments()
	if err != nil {
		return out, err
	}
	from, err := newOrigin(s, r.moments.without(m))
	if err != nil {
		return out, err
	}
	if out, err = o.measure(ctx, s, from, m, r.rows.Narrow(s, 0, n, kept-n), part); err != nil {
		return out, err
	}
	scores := newScorer(r.Features)
	for at := 0; at < n; at += bundled {
		if err := scores.add(at, part.Narrow(s, 0, at, min(bundled, n-at))); err != nil {
			return out, err
		}
	}
	out.Score = scores.result()
	if r.memo.floor == nil {
		r.memo.floor = map[floorKey]Measures{}
	}
	r.memo.floor[key] = out
	return out, nil
}

// measure compares generated moments and rows with real ones.
func (o Options) measure(ctx context.Context, s *torch.Scope, from origin, m Moments, a, b *torch.Tensor) (out Measures, err error) {
	if err := ctx.Err(); err != nil {
		return out, err
	}
	out = Measures{A: int(from.N), B: int(m.N), RowsA: a.Dim(0), RowsB: b.Dim(0)}
	if out.Frechet, err = from.distance(m); err != nil {
		return out, err
	}
	if out.Kernel, out.KernelStd, err = o.Kernel.Distance(s, a, b); err != nil {
		return out, err
	}
	if out.Sliced, err = o.Sliced.Distance(s, a, b); err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	out.Manifold, err = o.Neighbours.Compare(s, a, b)
	return out, err
}

// seen is what is learned of each generated image as it comes.
type seen struct {
	r     *Reference
	scope *torch.Scope
	x     *torch.Tensor // centred real rows
	mean  *torch.Tensor

	distances []float64
	places    []int64
	pairs     []Pair // sorted by distance, at most most
	most      int
	agreed    *agreed
}

func newSeen(r *Reference, o Options) *seen {
	c := &seen{r: r, most: o.Pairs, scope: torch.NewScope(torch.CPU)}
	c.x, c.mean = r.centred(c.scope)
	if o.Same != nil {
		c.agreed = &agreed{same: o.Same}
	}
	return c
}

func (c *seen) close() { c.scope.Close() }

// add looks up the nearest real images of a batch.
func (c *seen) add(s *torch.Scope, first int, images []image.Image, x *torch.Tensor) {
	y := x.Sub(s, c.mean)
	_, places := closest(s, distances(s, y, c.x), nearestFew)
	at := places.Select(s, 1, 0).Contiguous(s)
	d := torch.ToSlice[float64](y.Sub(s, c.x.IndexSelect(s, 0, at)).Square(s).SumDim(s, false, 1).Sqrt(s))
	near := torch.ToSlice[int64](at)
	c.distances, c.places = append(c.distances, d...), append(c.places, near...)
	for i, img := range images {
		c.pairs = append(c.pairs, Pair{Image: img, Index: first + i, Real: c.r.order[near[i]], Distance: d[i]})
	}
	slices.SortStableFunc(c.pairs, func(a, b Pair) int { return cmp.Compare(a.Distance, b.Distance) })
	if len(c.pairs) > c.most {
		clear(c.pairs[c.most:]) // their images
		c.pairs = c.pairs[:c.most]
	}
	if c.agreed != nil {
		c.agreed.add(c.r, first, torch.ToSlice[int64](places))
	}
}

// finish fills in the report.
func (c *seen) finish(s *torch.Scope, out *Report) (err error) {
	out.Pairs = c.pairs
	own := c.r.own(s, c.x)
	sorted := slices.Sorted(slices.Values(own))
	below := func(part float64) float64 {
		limit, n := sorted[int(part*float64(len(sorted)))], 0
		for _, d := range c.distances {
			if d < limit {
				n++
			}
		}
		return float64(n) / float64(len(c.distances))
	}
	closer := 0
	for i, d := range c.distances {
		if d < own[c.places[i]] {
			closer++
		}
	}
	out.Copies = Copies{
		Median: median(slices.Sorted(slices.Values(c.distances))), MedianReal: median(sorted),
		Below1: below(0.01), Below5: below(0.05), Below50: below(0.5), Closer: float64(closer) / float64(len(c.distances)),
	}
	if c.agreed != nil {
		a, err := c.agreed.result()
		if err != nil {
			return err
		}
		out.Agreement = &a
	}
	return nil
}

// median returns the median of a sorted list.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// centred returns the rows less their mean [1, D], and the mean.
func (r *Reference) centred(s *torch.Scope) (x, mean *torch.Tensor) {
	mean = r.rows.MeanDim(s, true, 0)
	return r.rows.Sub(s, mean), mean
}
