package dataset

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/ahead"
	"github.com/onestep-go/onestep/training/internal/shuffle"
)

// Batch is a batch of decoded images. Its slices are valid until the next batch is requested.
type Batch struct {
	Pixels  []byte  // [B, C, H, W]
	Labels  []int64 // [B]; -1 without labels
	Seen    int64   // images yielded since the start of training, this batch included
	Skipped int     // corrupt images that were replaced in this batch
}

// Loader yields shuffled batches. The order depends only on Seed and the number of images seen: every epoch has its own permutation, and a
// loader that starts at n images continues exactly where another one stopped, with any number of workers.
type Loader struct {
	Dataset Dataset
	Batch   int
	Seed    uint64
	Start   int64 // images seen before the first batch
	Workers int   // goroutines that decode; 0: one per processor, at most 8
	Flip    bool  // flip images horizontally with probability 0.5
	// SkipCorrupt replaces an image that cannot be decoded with the next good one in the epoch's order, counts it in
	// Batch.Skipped and calls Corrupt. Otherwise such an image ends the sequence with its error.
	SkipCorrupt bool
	Corrupt     func(err error) // called for every skipped image, each time it is skipped, from any goroutine; may be nil
}

// Batches yields batches of the same size without end; a batch may span two epochs. Decoding runs a few batches ahead. An error,
// including the context's, ends the sequence. When the loop ends, no goroutine is left.
func (l *Loader) Batches(ctx context.Context) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if err := l.validate(); err != nil {
			yield(Batch{}, fmt.Errorf("data: %w", err))
			return
		}
		fill := func(ctx context.Context, n int64, b *Batch) error { return l.fill(ctx, b, l.Start+n*int64(l.Batch)) }
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

func (l *Loader) validate() error {
	switch {
	case l.Dataset == nil:
		return errors.New("the loader has no dataset")
	case l.Dataset.Len() < 1:
		return fmt.Errorf("%s has no images", quote.Path(l.Dataset.Name()))
	case l.Dataset.Len() > math.MaxUint32:
		return fmt.Errorf("%s has %d images, the limit for shuffling is %d", quote.Path(l.Dataset.Name()), l.Dataset.Len(), uint32(math.MaxUint32))
	case l.Batch < 1:
		return fmt.Errorf("want a batch size of at least 1, got %d", l.Batch)
	case l.Start < 0:
		return fmt.Errorf("want to start at 0 images seen or more, got %d", l.Start)
	}
	return nil
}

// fill decodes the batch that begins after seen images.
func (l *Loader) fill(ctx context.Context, b *Batch, seen int64) error {
	c, h, w := l.Dataset.Shape()
	size := c * h * w
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.Pixels == nil {
		b.Pixels, b.Labels = make([]byte, l.Batch*size), make([]int64, l.Batch)
	}
	b.Seen, b.Skipped = seen+int64(l.Batch), 0
	for i := range b.Labels {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := uint64(seen) + uint64(i)
		dst := b.Pixels[i*size : (i+1)*size]
		label, skipped, err := l.read(at, dst)
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		b.Labels[i] = int64(label)
		b.Skipped += skipped
		if l.Flip && shuffle.Mix(l.Seed^shuffle.Mix(^at))&1 == 1 {
			mirror(dst, w)
		}
	}
	return nil
}

// read decodes the image at a position in the endless sequence of epochs.
func (l *Loader) read(at uint64, dst []byte) (label, skipped int, err error) {
	n := uint64(l.Dataset.Len())
	epoch, place := at/n, at%n
	for ; skipped < int(n); skipped++ {
		i := shuffle.Permute(l.Seed, epoch, n, (place+uint64(skipped))%n)
		if label, err = l.Dataset.Read(int(i), dst); err == nil {
			return label, skipped, nil
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			return 0, skipped, err
		}
		if !l.SkipCorrupt {
			return 0, skipped, err
		}
		if l.Corrupt != nil {
			l.Corrupt(err)
		}
	}
	return 0, skipped, fmt.Errorf("none of %d images can be decoded; the last one tried: %w", n, err)
}

func mirror(pixels []byte, width int) {
	for row := 0; row < len(pixels); row += width {
		for a, b := row, row+width-1; a < b; a, b = a+1, b-1 {
			pixels[a], pixels[b] = pixels[b], pixels[a]
		}
	}
}
