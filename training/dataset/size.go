package dataset

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

const (
	// looked is the number of images, spread over the set, whose size is examined when a set is opened.
	looked = 128
	// enough is the number of bytes of images after which no more are examined, since photographs have megabytes each.
	enough = 128 << 20
	// mostChosen is the largest resolution in pixels that is chosen for images of different sizes, that of ImageNet-64: each doubling costs
	// four times the work, so larger ones must be requested.
	mostChosen = 64
)

type size struct{ w, h int }

// nativeSize sets the set's size to that of the images, or chooses a resolution if o.Square is set.
func (s *Set) nativeSize(f files, o Options) error {
	var first error
	var sizes []size
	n, bytes := min(f.Len(), looked), 0
	for k := range n {
		if bytes > enough && k >= 16 {
			break
		}
		// Spread over the set from its first image on.
		i := spread(k, n) * f.Len() / n
		data, err := f.encoded(i)
		bytes += len(data)
		if err != nil && !errors.Is(err, imagefile.ErrNone) {
			return err
		}
		var h vision.Header
		if err == nil {
			h, err = vision.ReadHeader(data)
		}
		if err != nil {
			if first == nil {
				first = &CorruptError{f.name(i), err}
			}
			continue
		}
		w, hh := h.Size()
		is := size{w, hh}
		if sizes != nil && is != sizes[0] && !o.Square {
			return fmt.Errorf("the images differ in size: %s has %d×%d pixels, others have %d×%d; choose a resolution that all are resized to", quote.Path(f.name(i)), w, hh, sizes[0].w, sizes[0].h)
		}
		sizes = append(sizes, is)
	}
	if sizes == nil {
		return fmt.Errorf("the size of the images cannot be determined: %w", first)
	}
	s.w, s.h = sizes[0].w, sizes[0].h
	if o.Square {
		s.w = s.chooseSquare(sizes, o.Side)
		s.h, s.square = s.w, s.w
	}
	if s.h > maxResolution || s.w > maxResolution {
		return fmt.Errorf("the images have %d×%d pixels: choose a resolution of at most %d", s.w, s.h, maxResolution)
	}
	return nil
}

// spread permutes 0 to n-1, n ≤ looked, so that already the first few are spread over the whole range.
func spread(k, n int) int {
	if n < looked {
		return k
	}
	return int(bits.Reverse8(uint8(k)) >> 1)
}

// chooseSquare returns the resolution that images of these sizes are resized to, and adds a notice if it is not their own. It is side, unless
// that is 0.
func (s *Set) chooseSquare(sizes []size, side int) int {
	var shorter []int
	alike := true
	low, high := sizes[0], sizes[0]
	for _, x := range sizes {
		shorter = append(shorter, min(x.w, x.h))
		alike = alike && x == sizes[0]
		if x.w*x.h < low.w*low.h {
			low = x
		}
		if x.w*x.h > high.w*high.h {
			high = x
		}
	}
	if alike && low.w == low.h {
		return low.w
	}
	what := fmt.Sprintf("the images are not square (%d×%d pixels)", low.w, low.h)
	if !alike {
		what = fmt.Sprintf("the images differ in size (%d×%d to %d×%d pixels)", low.w, low.h, high.w, high.h)
	}
	if side > 0 {
		s.note("%s: each is center-cropped and resized to %d×%d pixels, the resolution of the model that training starts from", what, side, side)
		return side
	}
	slices.Sort(shorter)
	usual := shorter[len(shorter)/10]
	side = roundSide(usual)
	why := ""
	if !alike {
		why = fmt.Sprintf(", since nine of ten are at least %d pixels wide and high", usual)
	}
	switch {
	case usual > mostChosen:
		why += fmt.Sprintf(", and the largest default resolution is %d", mostChosen)
	case usual > side:
		why += fmt.Sprintf(", and networks downsample by powers of two, which %d does not allow", usual)
	}
	s.note("%s: each is center-cropped and resized to %d×%d pixels%s", what, side, side, why)
	return side
}

// roundSide returns the largest resolution up to n and mostChosen that networks which downsample a few times accept.
func roundSide(n int) int {
	n = min(n, mostChosen)
	for _, step := range []int{16, 8, 4} {
		if n >= step {
			return n - n%step
		}
	}
	return n
}

// Resized is the number of images read so far that were cropped and resized although the set was opened with Square and no resolution was
// chosen, because all images that were examined when it was opened had one size.
func (s *Set) Resized() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.odd)
}
