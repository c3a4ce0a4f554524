package evaluation

import (
	"context"
	"errors"
	"image"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// Agreement is how often images that were generated from captions of a set lie near the set's image of that caption: a measure of whether a
// model follows its prompts that needs no network that knows text.
type Agreement struct {
	Images  int     `json:"images"`
	Top1    float64 `json:"top1"` // fraction of the images whose nearest real image has their caption
	Top5    float64 `json:"top5"` // fraction for which one of the 5 nearest has
	Chance1 float64 `json:"chance_top1"`
	Chance5 float64 `json:"chance_top5"` // the same for images that ignore their captions
}

// Same reports whether image i of a sequence was generated from a caption of the real image with that index in its set. It is called from one
// goroutine at a time, for all real images of one i after the other.
type Same func(i, real int) bool

// Agreement measures it for images. Real images whose features are not kept (ReferenceOptions.Rows) are not looked at: use captions of
// those that Compared lists.
func (r *Reference) Agreement(ctx context.Context, images Images, same Same) (Agreement, error) {
	a := agreed{same: same}
	own := torch.NewScope(torch.CPU)
	defer own.Close()
	x, mean := r.centred(own)
	_, err := r.Features.batches(ctx, images, r.batch, func(s *torch.Scope, first int, _ []image.Image, y *torch.Tensor) error {
		if err := r.fits(y); err != nil {
			return err
		}
		_, places := closest(s, distances(s, y.Sub(s, mean), x), nearestFew)
		a.add(r, first, torch.ToSlice[int64](places))
		return nil
	})
	if err != nil {
		return Agreement{}, err
	}
	return a.result()
}

// nearestFew is the number of nearest real images that are looked at.
const nearestFew = 5

// agreed counts.
type agreed struct {
	same Same
	n    int
	sum  Agreement
}

// add counts images first, first+1, ..., whose nearest rows are in places [n, nearestFew].
func (a *agreed) add(r *Reference, first int, places []int64) {
	for i := range len(places) / nearestFew {
		matches := 0
		for _, real := range r.order {
			if a.same(first+i, real) {
				matches++
			}
		}
		for k, at := range places[i*nearestFew : (i+1)*nearestFew] {
			if a.same(first+i, r.order[at]) {
				if a.sum.Top5++; k == 0 {
					a.sum.Top1++
				}
				break
			}
		}
		part := float64(matches) / float64(len(r.order))
		a.sum.Chance1 += part
		a.sum.Chance5 += 1 - math.Pow(1-part, nearestFew)
		a.n++
	}
}

func (a *agreed) result() (Agreement, error) {
	if a.n == 0 {
		return Agreement{}, errors.New("evaluation: there are no images to compare with their captions")
	}
	n := float64(a.n)
	return Agreement{a.n, a.sum.Top1 / n, a.sum.Top5 / n, a.sum.Chance1 / n, a.sum.Chance5 / n}, nil
}
