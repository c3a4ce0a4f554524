package captioned

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/internal/ahead"
)

// Batch is a batch of decoded images. Its slices are valid until the next batch is requested.
type Batch struct {
	Items         []Item // with those that stand in for corrupt images
	Width, Height int    // of all images
	Pixels        []byte // [B, 3, Height, Width]
	Skipped       int    // corrupt images that were replaced
}

// Loader decodes the batches of an order in the background. They depend on the order alone, with any number of workers.
type Loader struct {
	Set     *Set
	Order   *Order // of Set
	Start   int64  // position of the first batch, as in Order.From
	Workers int    // goroutines that decode; 0: one per processor, at most 8
	// SkipCorrupt replaces an image that cannot be decoded with the next good one of its bucket, counts it in Batch.Skipped and
	// calls Corrupt. Otherwise such an image ends the sequence with its error.
	SkipCorrupt bool
	Corrupt     func(err error) // called for every skipped image, each time it is skipped, from any goroutine; may be nil
}

// Batches yields batches without end. Decoding runs a few batches ahead. An error, including the context's, ends the sequence. When the loop
// ends, no goroutine is left.
func (l *Loader) Batches(ctx context.Context) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if l.Set == nil || l.Order == nil || l.Order.set != l.Set {
			yield(Batch{}, &Error{errors.New("the loader needs a set and an order of it")})
			return
		}
		first := max(l.Start, 0) / l.Order.batch
		fill := func(ctx context.Context, n int64, b *Batch) error { return l.fill(ctx, b, first+n) }
		for b, err := range ahead.All(ctx, l.Workers, fill) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if !yield(*b, nil) {
				return
			}
		}
	}
}

// fill decodes batch k.
func (l *Loader) fill(ctx context.Context, b *Batch, k int64) error {
	b.Items, b.Skipped = l.Order.at(k), 0
	b.Width, b.Height = b.Items[0].Width, b.Items[0].Height
	size := 3 * b.Width * b.Height
	b.Pixels = slices.Grow(b.Pixels[:0], len(b.Items)*size)[:len(b.Items)*size]
	for i := range b.Items {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.read(&b.Items[i], b.Pixels[i*size:(i+1)*size], &b.Skipped); err != nil {
			return &Error{err}
		}
	}
	return nil
}

// read decodes an item, or the first one after it that can be.
func (l *Loader) read(it *Item, dst []byte, skipped *int) error {
	// Within two epochs of its bucket every image of it has stood in.
	for n := int64(0); ; n++ {
		img, err := l.Set.Read(*it)
		if err == nil {
			vision.Planes(dst, img)
			return nil
		}
		var corrupt *dataset.CorruptError
		if !l.SkipCorrupt || !errors.As(err, &corrupt) {
			return err
		}
		if l.Corrupt != nil {
			l.Corrupt(err)
		}
		bucket := &l.Set.buckets[l.Set.images[it.Image].bucket]
		if n > 2*bucket.samples() {
			return fmt.Errorf("%s: no image of the bucket %d×%d can be decoded; one of them: %w", quote.Path(l.Set.name), it.Width, it.Height, err)
		}
		*skipped++
		*it = l.Order.Next(*it)
	}
}
