package captioned

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"maps"
	"slices"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// Set is images with captions. Its methods may be called from several goroutines at once.
type Set struct {
	name    string
	images  []Image
	content []content // of images
	subsets []subset
	buckets []bucket
	prior   float64
	batch   int // that a configuration asks for
	summary Summary
	notices []string
	closers []func() error

	mu      sync.Mutex
	corrupt map[int]*dataset.CorruptError
}

// Image is one of a set's images.
type Image struct {
	Key           string   // names it within its subset: the path of its file, or its key in its shard
	Width, Height int      // in pixels, upright
	Captions      []string // as they are in the data, or the class tokens; an empty one if it has none
	Captioned     bool     // whether the data has a caption for it
	Repeats       int      // times that it is used in an epoch
	Subset        int      // whose settings it is used with; see Set.Settings
	Sum           [32]byte // SHA-256 of the encoded image

	bucket int
	scaled image.Point // size before cropping
}

// content is where an image's bytes are.
type content interface {
	encoded() ([]byte, error)
	name() string // for errors
}

// subset is images that are used alike.
type subset struct {
	Settings
	name string
	sizes
	skip int // images of at most so many pixels are left out
}

// sizes are the buckets of a subset's images.
type sizes struct {
	width, height int
	Buckets
}

// Name says what it is, for logs.
func (s *Set) Name() string { return s.name }

// Len is the number of images.
func (s *Set) Len() int { return len(s.images) }

// Images are the images, in the order that Item.Image counts. The slice must not be changed.
func (s *Set) Images() []Image { return s.images }

// Settings are those that a subset's images are used with, with defaults filled in.
func (s *Set) Settings(subset int) Settings { return s.subsets[subset].Settings }

// Batch is the batch size that a dataset configuration asks for; 0: none.
func (s *Set) Batch() int { return s.batch }

// Resolution is the width and height that images are brought to, or with buckets those of the rectangle whose area they have: Options.Resolution,
// or what a dataset configuration has in its place. Of several the one with the largest area.
func (s *Set) Resolution() image.Point {
	var most image.Point
	for _, x := range s.subsets {
		if x.width*x.height > most.X*most.Y {
			most = image.Pt(x.width, x.height)
		}
	}
	return most
}

// Summary counts what the set holds.
func (s *Set) Summary() Summary { return s.summary }

// Notices are what was decided about the data that whoever gave it may want to know, a sentence each.
func (s *Set) Notices() []string { return s.notices }

func (s *Set) note(format string, args ...any) {
	s.notices = append(s.notices, fmt.Sprintf(format, args...))
}

// Close closes the files that a set reads from. Nothing is read after it.
func (s *Set) Close() error {
	var errs []error
	for _, f := range s.closers {
		errs = append(errs, f())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Identity says how many images these are, with a sum by which they are told from others: of the images' names and content, their captions,
// how they are used, and the buckets they are brought to. Where they lie does not count.
func (s *Set) Identity() string {
	sum := sha256.New()
	for _, x := range s.subsets {
		fmt.Fprintf(sum, "%+v %d %d %+v\n", x.Settings, x.width, x.height, x.Buckets) //quote: a sum is made of it
	}
	for i := range s.images {
		x := &s.images[i]
		fmt.Fprintf(sum, "%q %x %q %d %d\n", x.Key, x.Sum, x.Captions, x.Repeats, x.Subset) //quote: a sum is made of it
	}
	fmt.Fprintf(sum, "%v\n", s.prior)
	return fmt.Sprintf("%d images, sha256 %.8x", s.Len(), sum.Sum(nil))
}

// Corrupt returns the images that [Set.Read] could not decode so far, in their order.
func (s *Set) Corrupt() []*dataset.CorruptError {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*dataset.CorruptError
	for _, i := range slices.Sorted(maps.Keys(s.corrupt)) {
		list = append(list, s.corrupt[i])
	}
	return list
}

// ChangedError is the error of an image whose file was changed, or truncated, since the set was opened. It is not skipped with corrupt ones.
type ChangedError struct {
	Name string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("image %s was changed after the data was opened: leave images as they are while they are used, and start again", quote.Path(e.Name))
}

// Read returns the pixels of an item: opaque, of exactly Width×Height pixels. An image that cannot be decoded is a [*dataset.CorruptError],
// and one that is no longer that of Image.Sum a [*ChangedError].
func (s *Set) Read(it Item) (*image.NRGBA, error) {
	if it.Image < 0 || it.Image >= s.Len() {
		return nil, fmt.Errorf("%s: image %d of %d", quote.Path(s.name), it.Image, s.Len())
	}
	whole := image.Rectangle{Max: it.Scaled}
	if it.Width < 1 || it.Height < 1 || it.Crop.Dx() != it.Width || it.Crop.Dy() != it.Height || !it.Crop.In(whole) || max(it.Scaled.X, it.Scaled.Y) > maxScaled {
		return nil, fmt.Errorf("%s: image %d: crop %v of %v for %d×%d pixels", quote.Path(s.name), it.Image, it.Crop, it.Scaled, it.Width, it.Height)
	}
	img, err := s.decode(it.Image)
	if err != nil {
		return nil, err
	}
	var scaled image.Image = img
	if img.Bounds().Size() != it.Scaled {
		scaled = vision.Resize(img, it.Scaled.X, it.Scaled.Y, vision.Bicubic)
	}
	out := image.NewNRGBA(image.Rect(0, 0, it.Width, it.Height))
	draw.Draw(out, out.Bounds(), scaled, scaled.Bounds().Min.Add(it.Crop.Min), draw.Src)
	if it.Flip {
		mirror(out)
	}
	return out, nil
}

// maxScaled limits the sides of an image that is scaled to cover its bucket.
const maxScaled = 16384

func (s *Set) decode(i int) (*image.RGBA, error) {
	s.mu.Lock()
	known := s.corrupt[i]
	s.mu.Unlock()
	if known != nil {
		return nil, known
	}
	data, err := s.content[i].encoded()
	if err != nil && !errors.Is(err, imagefile.ErrNone) {
		return nil, err // the disk's fault or the network's
	}
	if err == nil && sha256.Sum256(data) != s.images[i].Sum { // what is cached under its sum would be of another image
		return nil, &ChangedError{s.content[i].name()}
	}
	var img image.Image
	if err == nil {
		img, err = vision.Decode(data)
	}
	if err == nil {
		if b := img.Bounds(); b.Dx() != s.images[i].Width || b.Dy() != s.images[i].Height {
			err = fmt.Errorf("it has %d×%d pixels, and its header says %d×%d", b.Dx(), b.Dy(), s.images[i].Width, s.images[i].Height)
		}
	}
	if err != nil {
		c := &dataset.CorruptError{Name: s.content[i].name(), Err: err}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.corrupt == nil {
			s.corrupt = map[int]*dataset.CorruptError{}
		}
		s.corrupt[i] = c
		return nil, c
	}
	return vision.OnWhite(img), nil
}

// mirror turns an image left to right.
func mirror(m *image.NRGBA) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	for y := range h {
		row := m.Pix[y*m.Stride:]
		for a, b := 0, w-1; a < b; a, b = a+1, b-1 {
			for c := range 4 {
				row[4*a+c], row[4*b+c] = row[4*b+c], row[4*a+c]
			}
		}
	}
}
