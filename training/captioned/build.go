package captioned

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"image"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// looked is what an image's bytes tell.
type looked struct {
	w, h int
	sum  [32]byte
	err  error
}

// build looks at the images that were found, and puts them into buckets.
func (s *Set) build(ctx context.Context, parts []part, o Options) error {
	var all []*found
	for i := range parts {
		for j := range parts[i].images {
			all = append(all, &parts[i].images[j])
		}
	}
	seen, err := look(ctx, all, o.Progress)
	if err != nil {
		return err
	}
	b := builder{Set: s, o: o, at: map[bucketKey]int{}}
	for i := range parts {
		p := &parts[i]
		changed, err := p.check()
		if err != nil {
			return &sizeError{err}
		}
		if changed {
			s.note("buckets: the limits of sides are rounded to %d and %d pixels, multiples of %d", p.Min, p.Max, p.Step)
		}
		table := p.table()
		s.subsets = append(s.subsets, p.subset)
		for j := range p.images {
			if err := b.add(&p.images[j], seen[j], i, table); err != nil {
				return err
			}
		}
		seen = seen[len(p.images):]
	}
	if err := b.balance(parts); err != nil {
		return err
	}
	return b.finish()
}

// look reads every image once, several at a time.
func look(ctx context.Context, all []*found, progress func(done, all int)) ([]looked, error) {
	seen := make([]looked, len(all))
	var mu sync.Mutex
	var failed error
	next, done := 0, 0
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8, len(all)) { // each holds an encoded image
		workers.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for next < len(all) && failed == nil {
				if failed = ctx.Err(); failed != nil {
					return
				}
				i := next
				next++
				mu.Unlock()
				x, err := lookAt(all[i])
				mu.Lock()
				seen[i] = x
				if err != nil && failed == nil {
					failed = err
				}
				if done++; progress != nil {
					progress(done, len(all))
				}
			}
		})
	}
	workers.Wait()
	return seen, failed
}

// lookAt reads an image. An error is the disk's; what is wrong with the image is in the result.
func lookAt(f *found) (x looked, err error) {
	data, err := f.encoded()
	if err != nil {
		if !errors.Is(err, imagefile.ErrNone) {
			return x, err
		}
		x.err = err
		return x, nil
	}
	var h vision.Header
	if h, x.err = vision.ReadHeader(data); x.err == nil {
		x.w, x.h = h.Size()
		x.sum = sha256.Sum256(data)
		x.err = f.err
	}
	return x, nil
}

type bucketKey struct {
	sizes
	w, h int
}

// builder fills a set.
type builder struct {
	*Set
	o          Options
	at         map[bucketKey]int
	dropped    int // images whose captions have lines that are not used
	skipped    int // images below the size asked for
	unfit      int // images that no bucket can have
	firstUnfit error
}

// add puts an image into its bucket.
func (b *builder) add(f *found, seen looked, subset int, table []image.Point) error {
	sub := &b.subsets[subset]
	var at, scaled image.Point
	if seen.err == nil && seen.w*seen.h <= sub.skip {
		b.skipped++
		return nil
	}
	if seen.err == nil {
		var err error
		if at, scaled, err = sub.choose(table, seen.w, seen.h); err != nil {
			if b.unfit++; b.unfit == 1 {
				b.firstUnfit = fmt.Errorf("%s: %w", quote.Path(f.name()), err)
			}
			return nil
		}
	}
	if seen.err != nil {
		err := &dataset.CorruptError{Name: f.name(), Err: seen.err}
		if !b.o.SkipCorrupt {
			return err
		}
		b.summary.Corrupt = append(b.summary.Corrupt, err)
		return nil
	}
	x := Image{
		Key: f.key, Width: seen.w, Height: seen.h, Captions: f.captions, Captioned: len(f.captions) > 0, Repeats: sub.Repeats,
		Subset: subset, Sum: seen.sum, scaled: scaled,
	}
	if !x.Captioned {
		x.Captions = []string{sub.ClassTokens}
	}
	key := bucketKey{sub.sizes, at.X, at.Y}
	i, ok := b.at[key]
	if !ok {
		i = len(b.buckets)
		b.at[key] = i
		b.buckets = append(b.buckets, bucket{sizes: sub.sizes, at: at})
	}
	x.bucket = i
	if f.dropped {
		b.dropped++
	}
	b.images = append(b.images, x)
	b.content = append(b.content, f.content)
	return nil
}

// balance repeats a group's regularisation images so that an epoch has as many of them as of the others, as kohya's scripts do: those that
// are too few are repeated once more one after the other, and of those that are too many the first are used.
func (b *builder) balance(parts []part) error {
	groups := map[int][]int{} // regularisation images
	samples := map[int]int64{}
	for i := range b.images {
		p := &parts[b.images[i].Subset]
		if p.Regularization {
			groups[p.group] = append(groups[p.group], i)
		} else {
			samples[p.group] += int64(b.images[i].Repeats)
		}
	}
	unused := map[int]bool{}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		prior, want := groups[g], samples[g]
		if want == 0 {
			return fmt.Errorf("%s: regularisation images and no others to train on", quote.Path(b.name))
		}
		var have int64
		for _, i := range prior {
			if have >= want {
				unused[i] = true
				continue
			}
			have += int64(b.images[i].Repeats)
		}
		for k, i := range prior {
			if more, n := want-have, int64(len(prior)); more > 0 {
				b.images[i].Repeats += int(more / n)
				if int64(k) < more%n {
					b.images[i].Repeats++
				}
			}
		}
	}
	if len(unused) > 0 {
		b.note("skipped %s: an epoch uses as many of them as of the other images", plural.N(len(unused), "regularisation image"))
		var images []Image
		var from []content
		for i := range b.images {
			if !unused[i] {
				images, from = append(images, b.images[i]), append(from, b.content[i])
			}
		}
		b.images, b.content = images, from
	}
	for i := range b.images {
		if parts[b.images[i].Subset].Regularization {
			b.summary.Regularization++
		}
	}
	return nil
}

// finish orders the buckets and refuses what cannot be trained on.
func (b *builder) finish() error {
	s := b.Set
	if b.unfit > 0 && !b.o.SkipCorrupt {
		return fmt.Errorf("%s too small or too narrow for a bucket; the first: %w", plural.N(b.unfit, "image"), b.firstUnfit)
	}
	if b.unfit > 0 {
		s.note("skipped %s, too small or too narrow for a bucket; the first: %v", plural.N(b.unfit, "image"), b.firstUnfit) //quote: quoted above
	}
	if len(s.images) == 0 && b.unfit > 0 {
		return fmt.Errorf("%s: no images fit a bucket; the first: %w", quote.Path(s.name), b.firstUnfit)
	}
	if len(s.images) == 0 {
		if n := len(s.summary.Corrupt); n > 0 {
			return fmt.Errorf("%s: none of %s can be read; the first: %w", quote.Path(s.name), plural.N(n, "image"), s.summary.Corrupt[0])
		}
		return fmt.Errorf("%s: no images", quote.Path(s.name))
	}
	var without []string // names of some images without a caption
	for i := range s.images {
		x := &s.images[i]
		if x.Captioned {
			continue
		}
		s.summary.Uncaptioned++
		if x.Captions[0] != "" {
			s.summary.ClassTokens++
		} else if len(without) < 3 {
			without = append(without, quote.Path(s.content[i].name()))
		}
	}
	if n := s.summary.Uncaptioned - s.summary.ClassTokens; n > 0 && !b.o.Uncaptioned {
		return fmt.Errorf("%w: %d of %s, such as %s: write one beside each image (cat.txt for cat.jpg), or give class tokens: class_tokens in a dataset configuration, or a directory N_name",
			ErrUncaptioned, n, plural.N(len(s.images), "image"), strings.Join(without, ", "))
	}
	if n := len(s.summary.Corrupt); n > 0 {
		s.note("skipped %s; the first: %v", plural.N(n, "corrupt image"), s.summary.Corrupt[0]) //quote: quoted by CorruptError
	}
	if b.dropped > 0 {
		s.note("%s with several lines of captions: only the first line is used", plural.N(b.dropped, "image"))
	}
	if b.skipped > 0 {
		s.note("skipped %s of at most the resolution to skip", plural.N(b.skipped, "image"))
	}
	s.sortBuckets()
	for i := range s.images {
		x := &s.images[i]
		to := &s.buckets[x.bucket]
		to.images = append(to.images, i)
		to.upTo = append(to.upTo, to.samples()+int64(x.Repeats))
	}
	s.dropEmpty()
	s.noteSmall()
	for i := range s.buckets {
		x := &s.buckets[i]
		if x.samples() > math.MaxUint32 {
			return fmt.Errorf("%s: an epoch of the bucket %d×%d has %d samples, at most %d can be shuffled: give fewer repeats", quote.Path(s.name), x.at.X, x.at.Y, x.samples(), uint32(math.MaxUint32))
		}
		s.summary.Buckets = append(s.summary.Buckets, BucketCount{x.at.X, x.at.Y, len(x.images), x.samples()})
		s.summary.Samples += x.samples()
	}
	s.summary.Images = len(s.images)
	return nil
}

// ErrSizes is wrapped by the error about buckets that the resolution does not allow.
var ErrSizes = errors.New("buckets that the resolution does not allow")

type sizeError struct{ error }

func (e *sizeError) Unwrap() error        { return e.error }
func (e *sizeError) Is(target error) bool { return target == ErrSizes }

// ErrUncaptioned is wrapped by the error about images without a caption.
var ErrUncaptioned = errors.New("images without a caption")

// sortBuckets orders the buckets by size; those of one size keep the order in which they were found.
func (s *Set) sortBuckets() {
	order := make([]int, len(s.buckets))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return comparePoints(s.buckets[a].at, s.buckets[b].at) })
	sorted := make([]bucket, len(order))
	place := make([]int, len(order))
	for i, from := range order {
		sorted[i], place[from] = s.buckets[from], i
	}
	s.buckets = sorted
	for i := range s.images {
		s.images[i].bucket = place[s.images[i].bucket]
	}
}

// dropEmpty removes buckets whose images are not used.
func (s *Set) dropEmpty() {
	var kept []bucket
	for _, x := range s.buckets {
		for _, i := range x.images {
			s.images[i].bucket = len(kept)
		}
		if len(x.images) > 0 {
			kept = append(kept, x)
		}
	}
	s.buckets = kept
}

// noteSmall says how many images are enlarged.
func (s *Set) noteSmall() {
	small, least := 0, 0
	for i := range s.images {
		if x := &s.images[i]; x.scaled.X > x.Width || x.scaled.Y > x.Height {
			if small++; small == 1 || x.Width*x.Height < s.images[least].Width*s.images[least].Height {
				least = i
			}
		}
	}
	if small > 0 {
		x := &s.images[least]
		at := s.buckets[x.bucket].at
		s.note("upscaling %s smaller than the bucket, the smallest from %d×%d to cover %d×%d pixels (%s)", plural.N(small, "image"), x.Width, x.Height, at.X, at.Y, quote.Path(x.Key))
	}
}
