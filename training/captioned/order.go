package captioned

import (
	"image"
	"iter"
	"math/bits"

	"github.com/onestep-go/onestep/training/internal/shuffle"
)

// OrderOptions select one order of a set's images.
type OrderOptions struct {
	Seed  uint64
	Batch int // images of a batch; 0: 1
}

// Order is an endless sequence of batches, each of images of one bucket, which depends on the set, the seed and the batch size alone.
//
// Each bucket has its own sequence: a permutation of its samples for each epoch, one after the other, cut into batches. An epoch of the set
// has the batches that its buckets' sequences fill by then, in a permuted order. So an epoch has every image Repeats times, but for less
// than a batch of each bucket, which comes first in the next.
type Order struct {
	set   *Set
	seed  uint64
	batch int64
	epoch int64 // samples of one
}

// Item is an image as it is used at one position.
type Item struct {
	Position      int64           // samples before it in the order
	Epoch         int64           // of its bucket's sequence, from 0
	Image         int             // index in Set.Images
	Width, Height int             // of its bucket
	Scaled        image.Point     // size that the image is scaled to
	Crop          image.Rectangle // what is used of the scaled image, Width×Height pixels
	Flip          bool            // mirrored left to right after cropping
	Caption       string          // with its changes; "" if it is dropped
	Weight        float64         // factor of its loss: the prior loss weight of a regularisation image, else 1

	sample int64 // in its bucket's sequence
}

// Order returns the order of a seed.
func (s *Set) Order(o OrderOptions) *Order {
	r := &Order{set: s, seed: o.Seed, batch: int64(max(o.Batch, 1))}
	for i := range s.buckets {
		r.epoch += s.buckets[i].samples()
	}
	return r
}

// Batch is the number of items of each batch.
func (r *Order) Batch() int { return int(r.batch) }

// Epoch is the number of samples of an epoch.
func (r *Order) Epoch() int64 { return r.epoch }

// From yields batches without end, from that on which contains a position.
func (r *Order) From(position int64) iter.Seq[[]Item] {
	return func(yield func([]Item) bool) {
		for k := max(position, 0) / r.batch; r.epoch > 0 && yield(r.at(k)); k++ {
		}
	}
}

// before is the number of batches that the first n epochs fill.
func (r *Order) before(n int64) (batches int64) {
	for i := range r.set.buckets {
		batches += r.filled(i, n)
	}
	return batches
}

// filled is the number of batches that a bucket's first n epochs fill.
func (r *Order) filled(bucket int, n int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(r.set.buckets[bucket].samples()))
	q, _ := bits.Div64(hi, lo, uint64(r.batch))
	return int64(q)
}

// at returns batch k.
func (r *Order) at(k int64) []Item {
	// The first n epochs fill between n·epoch/batch - len(buckets) and n·epoch/batch batches.
	epochs := func(batches int64) int64 {
		hi, lo := bits.Mul64(uint64(batches), uint64(r.batch))
		q, _ := bits.Div64(hi, lo, uint64(r.epoch))
		return int64(q)
	}
	low, high := epochs(k), epochs(k+int64(len(r.set.buckets))+1)+1
	for low+1 < high { // before(low) ≤ k < before(high)
		if mid := low + (high-low)/2; r.before(mid) <= k {
			low = mid
		} else {
			high = mid
		}
	}
	first := r.before(low)
	j := int64(shuffle.Permute(r.seed^saltBatches, uint64(low), uint64(r.before(low+1)-first), uint64(k-first)))
	for b := range r.set.buckets {
		from, to := r.filled(b, low), r.filled(b, low+1)
		if j < to-from {
			items := make([]Item, r.batch)
			for i := range items {
				items[i] = r.item(b, (from+j)*r.batch+int64(i), k*r.batch+int64(i))
			}
			return items
		}
		j -= to - from
	}
	panic("captioned: a batch of no bucket")
}

// Next returns what stands in for an item whose image cannot be read: the next item of its bucket, at the same position.
func (r *Order) Next(it Item) Item {
	return r.item(r.set.images[it.Image].bucket, it.sample+1, it.Position)
}

// item returns a sample of a bucket's sequence.
func (r *Order) item(bucket int, sample, position int64) Item {
	b := &r.set.buckets[bucket]
	n := b.samples()
	epoch, place := sample/n, sample%n
	i := b.image(int64(shuffle.Permute(r.seed^shuffle.Mix(uint64(bucket)), uint64(epoch), uint64(n), uint64(place))))
	x := &r.set.images[i]
	sub := &r.set.subsets[x.Subset]
	d := draws{shuffle.Mix(r.seed ^ shuffle.Mix(^uint64(position)))}
	it := Item{
		Position: position, Epoch: epoch, Image: i, Width: b.at.X, Height: b.at.Y, Scaled: x.scaled, Weight: 1, sample: sample,
		Flip:    sub.Flip && d.bits(saltFlip)&1 == 1,
		Caption: sub.caption(x.Captions, epoch, d),
	}
	if sub.Regularization {
		it.Weight = r.set.prior
	}
	room := x.scaled.Sub(b.at)
	at := room.Div(2)
	if sub.RandomCrop {
		at = image.Pt(d.below(saltCropX, room.X+1), d.below(saltCropY, room.Y+1))
	}
	it.Crop = image.Rectangle{at, at.Add(b.at)}
	return it
}

// draws are random numbers of one position. Each use has a salt of its own.
type draws struct{ key uint64 }

const (
	saltFlip uint64 = iota + 1
	saltCropX
	saltCropY
	saltDropout
	saltCaption
	saltWildcard
	saltShuffle
	saltPart
	saltBatches
)

// bits returns 64 random bits.
func (d draws) bits(salt uint64) uint64 { return shuffle.Mix(d.key ^ shuffle.Mix(salt)) }

// nth are the draws of the nth of several things.
func (d draws) nth(n int) draws { return draws{shuffle.Mix(d.key + uint64(n))} }

// below returns a number from 0 to n-1.
func (d draws) below(salt uint64, n int) int {
	hi, _ := bits.Mul64(d.bits(salt), uint64(n))
	return int(hi)
}

// chance reports true with probability p.
func (d draws) chance(salt uint64, p float64) bool { return float64(d.bits(salt)>>11)/(1<<53) < p }
