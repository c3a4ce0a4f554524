package dataset

import (
	"cmp"
	"context"
	"errors"
	"image"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// Survey describes the content of a dataset.
type Survey struct {
	Name     string         // of the dataset
	Format   string         // "image files", "tar shards", "IDX", "emoji", or the version of CIFAR
	Images   int            // number of images, including corrupt ones
	Folders  int            // number of directories that contain images; 0 for datasets that are not image files in directories
	Classes  []ClassCount   // in the order of their labels; empty without labels
	Captions int            // number of images with a caption
	Encoded  map[string]int // images by file format, such as "jpeg", detected from the content; empty for tables of pixels (IDX, CIFAR, emoji)
	Sizes    []SizeCount    // image sizes, with EXIF orientation applied, the most frequent first
	Channels int            // 1 grey, 3 colour; 0: image files, which may have any
	Decoded  bool           // whether all images were decoded; otherwise only their headers were read
	Corrupt  int            // number of images that cannot be read
	Damage   []error        // the errors of the first hundred corrupt images, each a *CorruptError

	LeftOut map[string]int // image files in formats that are not supported, by extension
	Others  map[string]int // other files that are not captions, by extension
}

// ClassCount is the number of images of a class.
type ClassCount struct {
	Name   string `json:"name"`
	Images int    `json:"images"`
}

// SizeCount is the number of images of one size.
type SizeCount struct {
	Width  int `json:"width"`  // pixels
	Height int `json:"height"` // pixels
	Images int `json:"images"`
}

// SurveyOptions are the options of [Examine].
type SurveyOptions struct {
	// Decode is the largest number of images that are all decoded. Of a larger dataset only the images' headers are read.
	Decode int
	// Progress is called with the number of images examined so far and of all images, from one goroutine; may be nil.
	Progress func(done, all int)
}

// maxDamage is the number of corrupt images whose errors a survey has.
const maxDamage = 100

// Examine opens a dataset as [Open] does and examines all its images, of any size. It ignores o.Resolution and o.Channels.
func Examine(ctx context.Context, spec string, o Options, how SurveyOptions) (_ Survey, err error) {
	o.Resolution, o.Channels = 1, 0 // any resolution will do: nothing is read in the set's shape, and files of different sizes are allowed
	s, err := Open(spec, o)
	if err != nil {
		return Survey{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	v := Survey{Name: s.name, Images: s.Len(), Folders: s.Folders(), Encoded: map[string]int{}}
	for i, n := range s.Counts() {
		v.Classes = append(v.Classes, ClassCount{s.classes[i], n})
	}
	switch src := s.src.(type) {
	case *table:
		v.Format, v.Channels, v.Decoded = src.format, src.c, true // opening a table has checked it
		v.Sizes = []SizeCount{{src.w, src.h, v.Images}}
		if src.captions != nil {
			v.Captions = len(src.captions)
		}
		return v, nil
	case *folder:
		v.Format, v.LeftOut, v.Others = "image files", src.leftOut, src.others
	case shards:
		v.Format, v.LeftOut = "tar shards", src.LeftOut
	}
	v.Decoded = v.Images <= how.Decode
	return v, v.look(ctx, s.src.(files), how.Progress)
}

// look examines every image.
func (v *Survey) look(ctx context.Context, src files, progress func(done, all int)) error {
	type seen struct {
		i        int
		encoded  string
		at       image.Point // width and height
		captions int
		err      error // of the image, or fatal
		fatal    bool
	}
	one := func(i int) (s seen) {
		s.i = i
		data, err := src.encoded(i)
		if err != nil {
			s.err, s.fatal = err, !errors.Is(err, imagefile.ErrNone)
			return s
		}
		s.encoded = filetype.Of(data).ID
		h, err := vision.ReadHeader(data)
		if err == nil {
			s.at.X, s.at.Y = h.Size()
			if v.Decoded {
				_, err = vision.Decode(data)
			}
		}
		s.err = err
		if text, err := src.caption(i); err == nil && text != "" {
			s.captions = 1
		}
		return s
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next, out := make(chan int), make(chan seen)
	go func() {
		defer close(next)
		for i := range v.Images {
			select {
			case next <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8, v.Images) { // each has an image in memory
		workers.Go(func() {
			for i := range next {
				select {
				case out <- one(i):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	go func() {
		workers.Wait()
		close(out)
	}()

	sizes := map[image.Point]int{}
	damage := map[int]error{} // by image; only the first ones are kept
	done := 0
	var failed error
	for s := range out {
		if s.fatal {
			if failed == nil {
				failed = s.err
			}
			cancel()
			continue
		}
		done++
		v.Captions += s.captions
		if s.encoded != "" {
			v.Encoded[s.encoded]++
		}
		if s.err == nil {
			sizes[s.at]++
		} else {
			v.Corrupt++
			damage[s.i] = &CorruptError{src.name(s.i), s.err}
			if len(damage) > 2*maxDamage {
				keepFirst(damage, maxDamage)
			}
		}
		if progress != nil {
			progress(done, v.Images)
		}
	}
	if failed != nil {
		return failed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	keepFirst(damage, maxDamage)
	for _, i := range slices.Sorted(maps.Keys(damage)) {
		v.Damage = append(v.Damage, damage[i])
	}
	for at, n := range sizes {
		v.Sizes = append(v.Sizes, SizeCount{at.X, at.Y, n})
	}
	slices.SortFunc(v.Sizes, func(a, b SizeCount) int {
		return cmp.Or(cmp.Compare(b.Images, a.Images), cmp.Compare(a.Width, b.Width), cmp.Compare(a.Height, b.Height))
	})
	return nil
}

// keepFirst deletes all but the n entries with the smallest keys.
func keepFirst(m map[int]error, n int) {
	keys := slices.Sorted(maps.Keys(m))
	for _, k := range keys[min(n, len(keys)):] {
		delete(m, k)
	}
}

// Range returns the smallest and the largest width and height.
func (v Survey) Range() (least, most SizeCount) {
	for i, s := range v.Sizes {
		if i == 0 {
			least, most = s, s
		}
		least.Width, least.Height = min(least.Width, s.Width), min(least.Height, s.Height)
		most.Width, most.Height = max(most.Width, s.Width), max(most.Height, s.Height)
	}
	least.Images, most.Images = 0, 0
	return least, most
}
