package dataset

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"image"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/internal/archive"
	"github.com/onestep-go/onestep/training/internal/imagefile"
	"github.com/onestep-go/onestep/training/internal/webdataset"
)

// Dataset is an indexed list of images of one shape.
type Dataset interface {
	// Name is the dataset's name, for logs.
	Name() string
	// Len is the number of images.
	Len() int
	// Shape is the images' channels, height and width.
	Shape() (c, h, w int)
	// Classes are the class names, by label; empty without labels.
	Classes() []string
	// Read decodes image i into dst, which has c·h·w bytes, channel by channel, and returns its label, -1 without
	// labels. It may be called from several goroutines at once. An image that cannot be decoded is a [*CorruptError].
	Read(i int, dst []byte) (label int, err error)
}

// Options select the images and their shape.
type Options struct {
	Resolution int    // height and width in pixels; 0: those of the images, which must all have one size
	Channels   int    // 1 grey, 3 colour; 0: the data's own, and 3 for image files
	Test       bool   // the test split instead of the training split
	Dir        string // directory that is searched for named datasets before the default ones

	// Square chooses a resolution if Resolution is 0 and the images are not squares of one size, which is an error otherwise. The resolution is
	// Side, or if that is 0, the largest one up to 64 pixels that nine of ten images have. [Set.Notices] reports it.
	Square bool
	Side   int // pixels
}

func (o Options) validate() error {
	if o.Resolution < 0 || o.Resolution > maxResolution {
		return fmt.Errorf("resolution: want 1 to %d pixels, got %d", maxResolution, o.Resolution)
	}
	if o.Side < 0 || o.Side > maxResolution {
		return fmt.Errorf("side: want at most %d pixels, got %d", maxResolution, o.Side)
	}
	if o.Channels != 0 && o.Channels != 1 && o.Channels != 3 {
		return fmt.Errorf("channels: want 1 (grey) or 3 (colour), got %d", o.Channels)
	}
	return nil
}

// CorruptError reports an image that cannot be decoded.
type CorruptError struct {
	Name string // the file, and in an archive its member
	Err  error
}

// Error names the image and the reason.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt image %s: %v", quote.Long(e.Name, 400), quote.Error(e.Err))
}

// Unwrap returns the reason.
func (e *CorruptError) Unwrap() error { return e.Err }

// source has a set's images: a table of pixels, or encoded images.
type source interface {
	Len() int
	label(i int) int // -1: none
	caption(i int) (string, error)
	// identify writes what distinguishes these images from others, for a hash. Of encoded images it writes only names, sizes and labels.
	identify(w io.Writer) error
	Close() error
}

// files is a source of encoded images.
type files interface {
	source
	name(i int) string // file, and in an archive its member
	encoded(i int) ([]byte, error)
}

// Set is an open dataset.
type Set struct {
	name    string
	src     source
	classes []string
	c, h, w int  // shape of the images that Read returns
	as      bool // whether the pixels of a table are returned unchanged
	square  int  // resolution requested or chosen; 0: images must have the set's size
	own     bool // whether h and w are the size of the images that were examined
	cache   *cache
	notices []string

	mu      sync.Mutex
	corrupt map[int]*CorruptError
	odd     map[int]bool // images of another size than the set's own
}

// newSet returns a set that reads the images of src in the shape that o requests.
func newSet(name string, src source, classes []string, o Options) (*Set, error) {
	s := &Set{name: name, src: src, classes: classes, c: 3, h: o.Resolution, w: o.Resolution, square: o.Resolution}
	t, isTable := src.(*table)
	switch {
	case src.Len() == 0:
		return nil, fmt.Errorf("%s has no images", quote.Path(name))
	case isTable:
		s.c = t.c
		if o.Resolution == 0 {
			s.h, s.w = t.h, t.w
		}
	case o.Resolution == 0:
		if err := s.nativeSize(src.(files), o); err != nil {
			return nil, err
		}
		s.own = len(s.notices) == 0
	}
	if isTable && o.Resolution == 0 && o.Square {
		s.w = s.chooseSquare([]size{{t.w, t.h}}, o.Side)
		s.h, s.square = s.w, s.w
	}
	if o.Channels != 0 {
		s.c = o.Channels
	}
	s.as = isTable && t.c == s.c && t.h == s.h && t.w == s.w
	if n := s.size(); !s.as && src.Len() <= maxCache/n {
		s.cache = newCache(src.Len(), n)
	}
	return s, nil
}

// Name is the dataset's name, for logs.
func (s *Set) Name() string { return s.name }

// Len is the number of images.
func (s *Set) Len() int { return s.src.Len() }

// Shape is the images' channels, height and width.
func (s *Set) Shape() (c, h, w int) { return s.c, s.h, s.w }

// Classes are the class names, by label; empty without labels.
func (s *Set) Classes() []string { return s.classes }

// Close closes the files that a set reads from. The set cannot be read afterwards.
func (s *Set) Close() error { return s.src.Close() }

// Caption returns an image's caption; empty if there is none.
func (s *Set) Caption(i int) (string, error) {
	if i < 0 || i >= s.Len() {
		return "", fmt.Errorf("%s: image %d is out of range, it has %d images", quote.Path(s.name), i, s.Len())
	}
	return s.src.caption(i)
}

// Identity returns the number of images and a hash that distinguishes the dataset from others: of pixels and labels for tables of pixels
// (IDX, CIFAR, emoji), of names, file sizes and labels for encoded images, whose content is not read. It does not depend on the dataset's path.
func (s *Set) Identity() (string, error) {
	sum := sha256.New()
	if err := s.src.identify(sum); err != nil {
		return "", fmt.Errorf("%s: %w", quote.Path(s.name), err)
	}
	return fmt.Sprintf("%d images, sha256 %.8x", s.Len(), sum.Sum(nil)), nil
}

// Corrupt returns the images that could not be decoded so far, by index.
func (s *Set) Corrupt() []*CorruptError {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*CorruptError
	for _, i := range slices.Sorted(maps.Keys(s.corrupt)) {
		list = append(list, s.corrupt[i])
	}
	return list
}

func (s *Set) size() int { return s.c * s.h * s.w }

// Read decodes image i into dst [c, h, w] and returns its label, -1 without labels. It may be called from several
// goroutines at once. An image that cannot be decoded is a [*CorruptError]. An image whose size differs from the set's, where no
// resolution was requested or chosen, is an error of another type.
func (s *Set) Read(i int, dst []byte) (label int, err error) {
	if i < 0 || i >= s.Len() || len(dst) != s.size() {
		return 0, fmt.Errorf("%s: want an image of %d and a buffer of %d bytes, got image %d and %d bytes", quote.Path(s.name), s.Len(), s.size(), i, len(dst))
	}
	label = s.src.label(i)
	if s.cache.get(i, dst) {
		return label, nil
	}
	switch src := s.src.(type) {
	case *table:
		if s.as {
			return label, src.read(i, dst)
		}
		pixels := make([]byte, src.c*src.h*src.w)
		if err := src.read(i, pixels); err != nil {
			return 0, err
		}
		vision.Planes(dst, vision.Square(vision.OnWhite(vision.FromPlanes(pixels, src.c, src.h, src.w)), s.square))
	case files:
		if err := s.decode(src, i, dst); err != nil {
			return 0, err
		}
	}
	s.cache.put(i, dst)
	return label, nil
}

// Image returns image i as a Go image, of the same pixels as [Set.Read] and with its errors: a Set is an evaluation.Set.
func (s *Set) Image(i int) (image.Image, error) {
	pixels := make([]byte, s.size())
	if _, err := s.Read(i, pixels); err != nil {
		return nil, err
	}
	return vision.FromPlanes(pixels, s.c, s.h, s.w), nil
}

// Content returns what image i is stored as: the encoded image, or the pixels of a table (IDX, CIFAR, emoji).
func (s *Set) Content(i int) ([]byte, error) {
	if i < 0 || i >= s.Len() {
		return nil, fmt.Errorf("%s: image %d is out of range, it has %d images", quote.Path(s.name), i, s.Len())
	}
	if src, ok := s.src.(files); ok {
		data, err := src.encoded(i)
		if errors.Is(err, imagefile.ErrNone) { // Read says what is wrong with it
			err = nil
		}
		return data, err
	}
	src := s.src.(*table)
	pixels := make([]byte, src.c*src.h*src.w)
	return pixels, src.read(i, pixels)
}

func (s *Set) decode(src files, i int, dst []byte) error {
	s.mu.Lock()
	known := s.corrupt[i]
	s.mu.Unlock()
	if known != nil {
		return known
	}
	data, err := src.encoded(i)
	var img image.Image
	if err == nil {
		img, err = vision.Decode(data)
	} else if !errors.Is(err, imagefile.ErrNone) {
		return err // an I/O error
	}
	if err != nil {
		c := &CorruptError{src.name(i), err}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.corrupt == nil {
			s.corrupt = map[int]*CorruptError{}
		}
		s.corrupt[i] = c
		return c
	}
	if b := img.Bounds(); s.own && (b.Dx() != s.w || b.Dy() != s.h) && s.square > 0 {
		s.mu.Lock()
		if s.odd == nil {
			s.odd = map[int]bool{}
		}
		s.odd[i] = true
		s.mu.Unlock()
	}
	square := vision.Square(vision.OnWhite(img), s.square)
	if b := square.Bounds(); b.Dx() != s.w || b.Dy() != s.h {
		return fmt.Errorf("%s has %d×%d pixels, others have %d×%d; choose a resolution that all are resized to", quote.Path(src.name(i)), b.Dx(), b.Dy(), s.w, s.h)
	}
	vision.Planes(dst, square)
	return nil
}

// table is a source of pixels, in memory or in a file.
type table struct {
	format   string // the file's, such as "IDX"
	c, h, w  int
	pixels   []byte  // [n, c, h, w]; nil: see stored
	stored   *stored // nil: see pixels
	labels   []byte  // [n]; nil: none
	captions []string
}

// stored is pixels that are read from a file on demand, through the operating system's cache.
type stored struct {
	file  *os.File
	at    int64 // offset of the first image in bytes
	bytes int64 // size of all images
}

func (t *table) Len() int {
	n := int64(len(t.pixels))
	if t.stored != nil {
		n = t.stored.bytes
	}
	return int(n / int64(t.c*t.h*t.w))
}

func (t *table) Close() error {
	if t.stored != nil {
		return t.stored.file.Close()
	}
	return nil
}

func (t *table) at(i int) []byte { n := t.c * t.h * t.w; return t.pixels[i*n : (i+1)*n] }

// read copies the pixels of image i.
func (t *table) read(i int, dst []byte) error {
	if t.stored == nil {
		copy(dst, t.at(i))
		return nil
	}
	_, err := t.stored.file.ReadAt(dst, t.stored.at+int64(i)*int64(len(dst)))
	return quote.Error(archive.NoEOF(err))
}

func (t *table) label(i int) int {
	if t.labels == nil {
		return -1
	}
	return int(t.labels[i])
}

func (t *table) identify(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%d %d %d %d\n", t.c, t.h, t.w, len(t.labels)); err != nil {
		return err
	}
	if t.stored != nil {
		if n, err := io.Copy(w, io.NewSectionReader(t.stored.file, t.stored.at, t.stored.bytes)); err != nil || n != t.stored.bytes {
			return quote.Error(cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
	for _, part := range [][]byte{t.pixels, t.labels} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) caption(i int) (string, error) {
	if t.captions == nil {
		return "", nil
	}
	return t.captions[i], nil
}

// cache keeps decoded images. The operating system commits its memory as it fills.
type cache struct {
	size   int
	pixels []byte
	state  []atomic.Uint32 // 0 empty, 1 being filled, 2 filled
}

func newCache(n, size int) *cache {
	return &cache{size, make([]byte, n*size), make([]atomic.Uint32, n)}
}

func (c *cache) get(i int, dst []byte) bool {
	if c == nil || c.state[i].Load() != 2 {
		return false
	}
	copy(dst, c.pixels[i*c.size:])
	return true
}

func (c *cache) put(i int, src []byte) {
	if c != nil && c.state[i].CompareAndSwap(0, 1) {
		copy(c.pixels[i*c.size:], src)
		c.state[i].Store(2)
	}
}

// numbered names n classes by their labels.
func numbered(n int) []string { return webdataset.Numbered(n) }
