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
)

// Survey is what a set holds, as it lies there.
type Survey struct {
	Name     string         // of the set
	Format   string         // "image files", "tar shards", "IDX", "emoji", or which CIFAR
	Images   int            // with the corrupt ones
	Folders  int            // that the images lie in; 0: they are no files in folders
	Classes  []ClassCount   // in the order of their labels; empty without labels
	Captions int            // images with a text
	Encoded  map[string]int // images by their files' format, such as "jpeg", whatever their names say; empty for IDX and CIFAR-10
	Sizes    []SizeCount    // of the images as they are meant to be seen, the most frequent first
	Channels int            // 1 grey, 3 colour; 0: files may have any
	Decoded  bool           // whether all images were decoded; otherwise only their headers were read
	Corrupt  int            // images that cannot be read
	Damage   []error        // what is wrong with the first hundred of them, each a *CorruptError

	LeftOut map[string]int // image files in formats that are not read, by extension
	Others  map[string]int // files beside them that are no images and no captions, by extension
}

// ClassCount is the number of images of a class.
type ClassCount struct {
	Name   string `json:"name"`
	Images int    `json:"images"`
}

// SizeCount is the number of images of a size in pixels.
type SizeCount struct {
	Width  int `json:"width"`
	Height int `json:"height"`
	Images int `json:"images"`
}

// SurveyOptions say how closely a set is looked at.
type SurveyOptions struct {
	// Decode decodes every image if there are at most so many; of larger sets only headers are read. 0: none is decoded.
	Decode int
	// Progress is told how many images have been looked at, from one goroutine; may be nil.
	Progress func(done, all int)
}

// maxDamage is the number of corrupt images that a survey says more of.
const maxDamage = 100

// Examine opens a set as [Open] does, and looks at all its images, whatever their sizes. o.Resolution and o.Channels do not matter.
func Examine(ctx context.Context, spec string, o Options, how SurveyOptions) (_ Survey, err error) {
	o.Resolution, o.Channels = 1, 0 // any: nothing is read in the set's shape, and files of different sizes are welcome
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
		v.Format, v.Channels, v.Decoded = src.format, src.c, true // what is there of a table is whole
		v.Sizes = []SizeCount{{src.w, src.h, v.Images}}
		if src.captions != nil {
			v.Captions = len(src.captions)
		}
		return v, nil
	case *folder:
		v.Format, v.LeftOut, v.Others = "image files", src.leftOut, src.others
	case *shards:
		v.Format, v.LeftOut = "tar shards", src.leftOut
	}
	v.Decoded = v.Images <= how.Decode
	return v, v.look(ctx, s.src.(files), how.Progress)
}

// look reads every image.
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
			s.err, s.fatal = err, !errors.Is(err, errNoImage)
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
	for range min(runtime.GOMAXPROCS(0), 8, v.Images) { // each holds an image
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
	damage := map[int]error{} // by image; the first ones are kept
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

// keepFirst leaves the n entries with the lowest keys.
func keepFirst(m map[int]error, n int) {
	keys := slices.Sorted(maps.Keys(m))
	for _, k := range keys[min(n, len(keys)):] {
		delete(m, k)
	}
}

// Range returns the least and the greatest width and height.
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
