package dataset

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// Batch is decoded images. It is valid until the next one is asked for.
type Batch struct {
	Pixels []byte  // [B, C, H, W]
	Labels []int64 // [B]; -1 without labels
	Seen   int64   // images handed out, this batch included, since the run's beginning
}

// Loader hands out batches in an order that is a function of (Seed, images seen): every epoch is a permutation of its
// own, and a loader that starts at n images goes on exactly where another one was.
type Loader struct {
	Dataset Dataset
	Batch   int
	Seed    uint64
	Start   int64 // images seen before the first batch
	Workers int   // goroutines that decode; 0: 2
	Flip    bool  // mirror every other image left to right, at random
	// SkipCorrupt replaces an image that cannot be decoded by the next good one in the epoch's order, and calls Corrupt
	// for it. Otherwise it is an error.
	SkipCorrupt bool
	Corrupt     func(err error) // told of skipped images, from any goroutine; nil: nobody
}

// Batches yields batches until ctx is done, which ends the sequence without an error, or until an error. Decoding runs
// ahead of the consumer by a few batches.
func (l *Loader) Batches(ctx context.Context) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if l.Batch < 1 {
			yield(Batch{}, fmt.Errorf("data: want a batch of at least 1 image, got %d", l.Batch))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		workers := l.Workers
		if workers < 1 {
			workers = 2
		}
		// One slot per batch in flight keeps the order; workers fill whole batches.
		type slot struct {
			batch Batch
			err   error
		}
		slots := make([]chan slot, workers+2)
		for i := range slots {
			slots[i] = make(chan slot, 1)
		}
		var next atomic.Int64
		tokens := make(chan struct{}, len(slots))
		for range slots {
			tokens <- struct{}{}
		}
		for range workers {
			wg.Go(func() {
				for {
					select {
					case <-ctx.Done():
						return
					case <-tokens:
					}
					n := next.Add(1) - 1
					b, err := l.fill(l.Start + n*int64(l.Batch))
					slots[n%int64(len(slots))] <- slot{b, err}
				}
			})
		}
		for n := int64(0); ; n++ {
			select {
			case <-ctx.Done():
				return
			case s := <-slots[n%int64(len(slots))]:
				if !yield(s.batch, s.err) || s.err != nil {
					return
				}
				tokens <- struct{}{}
			}
		}
	}
}

// fill decodes the batch that begins after seen images.
func (l *Loader) fill(seen int64) (Batch, error) {
	c, h, w := l.Dataset.Shape()
	size := c * h * w
	b := Batch{Pixels: make([]byte, l.Batch*size), Labels: make([]int64, l.Batch), Seen: seen + int64(l.Batch)}
	order := permutation{}
	for i := range l.Batch {
		at := seen + int64(i)
		label, err := l.read(&order, at, b.Pixels[i*size:(i+1)*size])
		if err != nil {
			return b, fmt.Errorf("data: %w", err)
		}
		b.Labels[i] = int64(label)
		if l.Flip && rand.New(rand.NewPCG(l.Seed^0x9e3779b97f4a7c15, uint64(at))).IntN(2) == 1 {
			mirror(b.Pixels[i*size:(i+1)*size], w)
		}
	}
	return b, nil
}

// read decodes the image at a place in the endless order.
func (l *Loader) read(order *permutation, at int64, dst []byte) (int, error) {
	n := l.Dataset.Len()
	var err error
	for try := range n {
		epoch, place := at/int64(n), int(at%int64(n))
		i := order.at(l.Seed, epoch, n, (place+try)%n)
		var label int
		if label, err = l.Dataset.Read(i, dst); err == nil {
			return label, nil
		}
		var corrupt *CorruptError
		if !l.SkipCorrupt || !errors.As(err, &corrupt) {
			return 0, err
		}
		if l.Corrupt != nil {
			l.Corrupt(err)
		}
	}
	return 0, fmt.Errorf("every image is corrupt; the last: %w", err)
}

// permutation is an epoch's order.
type permutation struct {
	epoch int64
	order []int
}

func (p *permutation) at(seed uint64, epoch int64, n, i int) int {
	if p.order == nil || p.epoch != epoch {
		p.epoch, p.order = epoch, rand.New(rand.NewPCG(seed, uint64(epoch))).Perm(n)
	}
	return p.order[i]
}

func mirror(pixels []byte, width int) {
	for row := 0; row < len(pixels); row += width {
		for a, b := row, row+width-1; a < b; a, b = a+1, b-1 {
			pixels[a], pixels[b] = pixels[b], pixels[a]
		}
	}
}
