package captioned

import (
	"cmp"
	"errors"
	"fmt"
	"image"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/plural"
)

// bucket is images of one size, which batches are made of.
type bucket struct {
	sizes // of the subsets whose images these are
	at    image.Point
	// images are those of the bucket, and upTo[i] how many samples the first i+1 of them have in an epoch.
	images []int
	upTo   []int64
}

// samples is the number of samples in an epoch.
func (b *bucket) samples() int64 {
	if len(b.upTo) == 0 {
		return 0
	}
	return b.upTo[len(b.upTo)-1]
}

// image returns which image a sample, 0 to samples()-1, is of.
func (b *bucket) image(sample int64) int {
	i, found := slices.BinarySearch(b.upTo, sample)
	if found {
		i++
	}
	return b.images[i]
}

const (
	defaultMin  = 256
	defaultMax  = 1024
	defaultStep = 64
)

func (b *Buckets) defaults() error {
	if !b.Enable {
		if *b != (Buckets{}) {
			return errors.New("buckets: their sizes are given, and they are not enabled")
		}
		return nil
	}
	b.Min, b.Max, b.Step = cmp.Or(b.Min, defaultMin), cmp.Or(b.Max, defaultMax), cmp.Or(b.Step, defaultStep)
	switch {
	case b.Step < 1 || b.Step > maxResolution:
		return fmt.Errorf("buckets: want a step of 1 to %d pixels, got %d", maxResolution, b.Step)
	case b.Min < 1 || b.Max > maxResolution || b.Min > b.Max:
		return fmt.Errorf("buckets: want sides between 1 and %d pixels, got %d to %d", maxResolution, b.Min, b.Max)
	}
	return nil
}

// check refuses sizes that no bucket has, and brings the limits to multiples of the step.
func (x *sizes) check() (changed bool, err error) {
	if !x.Enable {
		return false, nil
	}
	low, high := x.Min-x.Min%x.Step, x.Max+(x.Step-x.Max%x.Step)%x.Step
	switch {
	case x.Step > min(x.width, x.height):
		return false, fmt.Errorf("buckets: the step of %d pixels is above the resolution of %d×%d: want a higher resolution, or bucket_reso_steps in a dataset configuration", x.Step, x.width, x.height)
	case x.NoUpscale:
		return false, nil // sides come from the images
	case low > min(x.width, x.height):
		return false, fmt.Errorf("buckets: the least side of %d pixels is above the resolution of %d×%d: want a higher resolution, or min_bucket_reso in a dataset configuration", x.Min, x.width, x.height)
	case high < max(x.width, x.height):
		return false, fmt.Errorf("buckets: the greatest side of %d pixels is below the resolution of %d×%d: want a lower resolution, or max_bucket_reso in a dataset configuration", x.Max, x.width, x.height)
	}
	low = max(low, x.Step)
	changed = low != x.Min || high != x.Max
	x.Min, x.Max = low, high
	return changed, nil
}

// table lists the buckets' sizes: the square with a side of the resolution, or the root of its area, and for each width from Min to Max the
// greatest height of at most that area, either way round; all multiples of Step. With NoUpscale there is none, and with buckets off only the
// resolution itself.
func (x sizes) table() []image.Point {
	if !x.Enable {
		return []image.Point{{X: x.width, Y: x.height}}
	}
	if x.NoUpscale {
		return nil
	}
	area := x.width * x.height
	side := int(math.Sqrt(float64(area))) / x.Step * x.Step
	all := []image.Point{{X: side, Y: side}}
	for w := x.Min; w <= x.Max; w += x.Step {
		if h := min(x.Max, area/w/x.Step*x.Step); h >= x.Min {
			all = append(all, image.Pt(w, h), image.Pt(h, w))
		}
	}
	slices.SortFunc(all, comparePoints)
	return slices.Compact(all)
}

func comparePoints(a, b image.Point) int { return cmp.Or(cmp.Compare(a.X, b.X), cmp.Compare(a.Y, b.Y)) }

// choose returns the bucket of an image of w×h pixels, and the size that it is scaled to, which is cropped to the bucket's. With a table it
// is the bucket of the image's own size, or the first of those whose aspect ratio is nearest; the image is scaled to just cover it.
// Without, an image above the resolution's area is scaled to that area, with that side a multiple of Step which changes the aspect ratio
// less, others keep their size; and both sides of the bucket are the greatest multiples of Step within it.
func (x sizes) choose(table []image.Point, w, h int) (at, scaled image.Point, err error) {
	ratio := float64(w) / float64(h)
	if x.Enable && x.NoUpscale {
		scaled = image.Pt(w, h)
		if area := float64(x.width * x.height); float64(w)*float64(h) > area {
			scaled = x.shrunk(area, ratio)
		}
		at = image.Pt(scaled.X/x.Step*x.Step, scaled.Y/x.Step*x.Step)
		if at.X == 0 || at.Y == 0 {
			return at, scaled, fmt.Errorf("it has %d×%d pixels, less than one step of %d on a side: allow upscaling, or use a smaller step", w, h, x.Step)
		}
	} else {
		at = table[0]
		if one := image.Pt(w, h); slices.Contains(table, one) {
			at = one
		} else {
			for _, p := range table[1:] {
				if math.Abs(ratioOf(p)-ratio) < math.Abs(ratioOf(at)-ratio) {
					at = p
				}
			}
		}
		scale := float64(at.X) / float64(w)
		if ratio > ratioOf(at) {
			scale = float64(at.Y) / float64(h)
		}
		// Rounding never leaves a side short of the bucket's.
		scaled = image.Pt(max(round(float64(w)*scale), at.X), max(round(float64(h)*scale), at.Y))
	}
	if max(scaled.X, scaled.Y) > maxScaled {
		return at, scaled, fmt.Errorf("it has %d×%d pixels, and to cover %d×%d it would be scaled to %d×%d; at most %s on a side are scaled to", w, h, at.X, at.Y, scaled.X, scaled.Y, plural.N(maxScaled, "pixel"))
	}
	return at, scaled, nil
}

// shrunk is the size with this area and aspect ratio, with one side rounded to a multiple of Step.
func (x sizes) shrunk(area, ratio float64) image.Point {
	step := func(v float64) int { n := round(v); return n - n%x.Step }
	width := math.Sqrt(area * ratio)
	height := area / width
	byWidth := step(width)
	byHeight := step(height)
	byWidthH, byHeightW := step(float64(byWidth)/ratio), step(float64(byHeight)*ratio)
	if math.Abs(float64(byWidth)/float64(byWidthH)-ratio) < math.Abs(float64(byHeightW)/float64(byHeight)-ratio) {
		return image.Pt(byWidth, round(float64(byWidth)/ratio))
	}
	return image.Pt(round(float64(byHeight)*ratio), byHeight)
}

func ratioOf(p image.Point) float64 { return float64(p.X) / float64(p.Y) }

func round(x float64) int { return int(x + 0.5) }
