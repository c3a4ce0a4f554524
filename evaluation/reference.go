package evaluation

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math/rand/v2"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Set is a set of real images. Images have one size.
type Set interface {
	// Len is the number of images.
	Len() int
	// Image returns an image by its index.
	Image(i int) (image.Image, error)
	// If there is a method Content(i int) ([]byte, error), what it returns distinguishes the image from others in the cache's key: the encoded
	// image, for instance. Without it, the pixels of 32 images do.
}

// ReferenceOptions say how much of a set is used. The zero value uses all images, and caches nothing.
type ReferenceOptions struct {
	Images int // number of images, drawn at random; 0, or more than there are: all
	Rows   int // number of images, drawn at random from these, that are compared one by one; 0: 10,000
	Batch  int // images whose features are computed together; 0: 32

	// Cache is a directory for the features of sets; "": none. Identity distinguishes the set from others: its images and how they were
	// cropped and resized. Without one, or without the identity of the features, nothing is cached. The content of the images is compared, too (see
	// [Set]), since an identity is often made of names and sizes of files, which other images of the same format may have.
	Cache, Identity string

	Progress func(done, all int) // called after each batch; may be nil
}

const (
	defaultRows  = 10_000
	defaultBatch = 32
	leastImages  = 12 // of a set: each half has the neighbours of Neighbours
)

// Reference is what generated images are compared with: the moments of a set of real images, and the features of a limited number of
// them. It is read only, and several goroutines may use it at once, except for Close.
type Reference struct {
	Features Features
	Images   int         // number of real images
	Size     image.Point // of the images, in pixels
	Cached   bool        // whether the features were read from the cache
	Uncached error       // why the features could not be written to the cache, such as a full disk; nil otherwise

	set     Set
	moments Moments
	order   []int // indices in the set of the images in rows
	rows    *torch.Tensor
	batch   int
	scope   *torch.Scope
	path    string // of the file in the cache; "": none
	memo    memo
}

// NewReference computes the features of a set, or reads them from the cache. The result has to be closed; the set is used until then.
func NewReference(ctx context.Context, f Features, set Set, o ReferenceOptions) (_ *Reference, err error) {
	if f.Extractor == nil {
		return nil, errors.New("evaluation: no extractor is set")
	}
	if o.Images < 0 || o.Rows < 0 || o.Batch < 0 {
		return nil, fmt.Errorf("evaluation: want positive numbers of images, rows and images in a batch, got %d, %d and %d", o.Images, o.Rows, o.Batch)
	}
	n := set.Len()
	if o.Images != 0 {
		n = min(n, o.Images)
	}
	if n < leastImages {
		return nil, fmt.Errorf("evaluation: want at least %d real images, got %d: half of them are compared with the others", leastImages, n)
	}
	r := &Reference{Features: f, Images: n, set: set, batch: o.Batch, scope: torch.NewScope(torch.CPU)}
	if r.batch == 0 {
		r.batch = defaultBatch
	}
	keep := o.Rows
	if keep == 0 {
		keep = defaultRows
	}
	keep = min(max(keep, leastImages), n)
	drawn := rand.New(rand.NewPCG(1, 0)).Perm(set.Len())[:n] // always in this order, so that a set has one reference
	r.order = drawn[:keep]
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	c, err := newStore(o.Cache, o.Identity, f, set, drawn, keep)
	if err != nil {
		return nil, err
	}
	r.path = c.path
	if r.Cached = c.read(r); r.Cached {
		return r, nil
	}
	all := NewCollector(keep)
	defer all.Close()
	images := func(yield func(image.Image, error) bool) {
		for _, i := range drawn {
			img, err := set.Image(i)
			if !yield(img, err) || err != nil {
				return
			}
		}
	}
	sums := &bundle{each: func(_ *torch.Scope, _ int, x *torch.Tensor) error { return all.Add(x) }}
	defer sums.close()
	r.Size, err = f.batches(ctx, images, r.batch, func(_ *torch.Scope, first int, images []image.Image, x *torch.Tensor) error {
		if err := sums.add(x); err != nil {
			return err
		}
		if o.Progress != nil {
			o.Progress(first+len(images), n)
		}
		return nil
	})
	if err == nil {
		err = sums.flush()
	}
	if err != nil {
		return nil, err
	}
	if r.moments, err = all.Moments(); err != nil {
		return nil, err
	}
	if r.rows, err = all.Rows(r.scope); err != nil {
		return nil, err
	}
	r.Uncached = c.write(r) // no reason to lose what may have taken hours
	return r, nil
}

// fits returns an error for features that cannot be compared with the reference's: those of a cache may be of another extractor, which had
// the same identity.
func (r *Reference) fits(x *torch.Tensor) error {
	have, got := len(r.moments.Mean), x.Dim(1)
	if have == got {
		return nil
	}
	if r.Cached {
		return fmt.Errorf("evaluation: the cached statistics %s have %d features and the extractor %s computes %d: give each extractor an identity of its own, or remove the file",
			quote.Path(r.path), have, quote.Text(r.Features.Name), got)
	}
	return fmt.Errorf("evaluation: the extractor %s computed %d features of the real images, and now %d: want the same number of all images", quote.Text(r.Features.Name), have, got)
}

// takes returns an error for generated images that cannot be compared with the reference's, or for their features.
func (r *Reference) takes(images []image.Image, x *torch.Tensor, o Options) error {
	if got := images[0].Bounds().Size(); got != r.Size && !o.OtherSize {
		return fmt.Errorf("evaluation: the generated images have %d×%d pixels and the real ones %d×%d: resize one of them, so that details are comparable", got.X, got.Y, r.Size.X, r.Size.Y)
	}
	return r.fits(x)
}

// Compared returns the indices in the set of the images that generated ones are compared with one by one: all, or those drawn.
func (r *Reference) Compared() []int { return r.order }

// Close frees the features.
func (r *Reference) Close() { r.scope.Close() }
