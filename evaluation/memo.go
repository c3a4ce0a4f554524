package evaluation

import (
	"sync"

	"github.com/onestep-go/onestep/torch"
)

// memo is what does not depend on the generated images, computed when it is first asked for: a reference that is compared with many sets,
// such as during training, computes it once.
type memo struct {
	mu    sync.Mutex
	from  *origin
	own   []float64 // distance of each row to the nearest other one
	floor map[floorKey]Measures
}

// floorKey is what a floor depends on.
type floorKey struct {
	n          int
	kernel     Kernel
	neighbours Neighbours
	sliced     Sliced
}

// origin returns the distribution of the real images.
func (r *Reference) origin() (origin, error) {
	r.memo.mu.Lock()
	defer r.memo.mu.Unlock()
	if r.memo.from == nil {
		from, err := newOrigin(r.scope, r.moments)
		if err != nil {
			return origin{}, err
		}
		r.memo.from = &from
	}
	return *r.memo.from, nil
}

// own returns the distance of each of the centred rows to the nearest other one.
func (r *Reference) own(s *torch.Scope, centred *torch.Tensor) []float64 {
	r.memo.mu.Lock()
	defer r.memo.mu.Unlock()
	if r.memo.own == nil {
		r.memo.own = torch.ToSlice[float64](radii(s, centred, 1))
	}
	return r.memo.own
}
