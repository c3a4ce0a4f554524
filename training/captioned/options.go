package captioned

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/quote"
)

// Options select how images are used. Values of a dataset configuration take precedence over them.
type Options struct {
	Resolution int     // side of the images in pixels; with Buckets, all have about the area of this square; 0: 512
	Buckets    Buckets // aspect-ratio buckets; zero value: squares of Resolution pixels
	Settings           // for all images

	// Column is the column of captions in metadata.jsonl and metadata.csv; "": text, caption or prompt.
	Column string
	// Cache is the directory that downloaded shards are kept in; "": onestep/shards in the user's cache directory.
	Cache string
	// Downloading is called during a download with the shard's name, the bytes received so far, and its size, -1 if unknown; may be nil.
	Downloading func(shard string, done, all int64)
	// CacheLimit is the limit in bytes for all shards of a set that are downloaded or written by a command; 0: 64 GiB.
	CacheLimit int64
	// Prior is a directory of regularisation images (prior preservation), with captions like the others; "": none.
	Prior string
	// PriorWeight is the prior loss weight, a factor for the loss of regularisation images; 0: 1.
	PriorWeight float64
	// Uncaptioned allows images without a caption, whose prompt is empty. Otherwise they are an error.
	Uncaptioned bool
	// SkipCorrupt leaves out images that cannot be read, which Summary counts, and those too small or too narrow for a bucket. Otherwise they
	// are an error.
	SkipCorrupt bool
	// Progress is called while Open reads the images, with the number read and their total, by one goroutine at a time; may be nil.
	Progress func(done, all int)
}

// Settings select how the images of a subset are used. The zero value: once per epoch, center-cropped, with unchanged captions.
type Settings struct {
	Repeats        int    // uses of each image per epoch; 0: 1
	ClassTokens    string // caption of images without one
	Regularization bool   // regularisation images, for prior preservation

	RandomCrop bool // crop at a random place instead of the center
	Flip       bool // flip horizontally with probability 0.5

	Lines           Lines   // lines of a caption file that are used
	Wildcards       bool    // {red|green} in a caption becomes one of the two at random; {{ and }} are braces
	Prefix, Suffix  string  // put before and after each caption, separated by a space
	Shuffle         bool    // shuffle the tags of a caption (its parts between separators), except the first KeepTokens
	KeepTokens      int     // tags at the start that are neither shuffled nor dropped
	KeepSeparator   string  // such as |||: tags before its first and after its second occurrence are kept instead
	Separator       string  // between tags; "": a comma
	SecondSeparator string  // replaced by Separator after shuffling, to keep tags together
	Dropout         float64 // probability of an empty caption
	DropoutEvery    int     // all captions of every DropoutEvery-th epoch are empty; 0: never
	PartDropout     float64 // probability of dropping each tag that is not kept
}

// Lines selects the lines of a caption file.
type Lines int

const (
	JoinLines  Lines = iota // one caption of all lines, joined by spaces
	FirstLine               // only the first line
	RandomLine              // each line is a caption; one is chosen at random for each use
)

// Buckets are aspect-ratio buckets, the same as in kohya's training scripts.
type Buckets struct {
	Enable    bool
	Min, Max  int  // limits of a bucket's sides in pixels; 0: 256 and 1024
	Step      int  // sides are multiples of Step; 0: 64
	NoUpscale bool // never upscale images: small ones get smaller buckets
}

const (
	defaultResolution = 512
	maxResolution     = 8192
	maxRepeats        = 1_000_000
)

func (o *Options) defaults() error {
	if o.Resolution == 0 {
		o.Resolution = defaultResolution
	}
	if o.Resolution < 1 || o.Resolution > maxResolution {
		return fmt.Errorf("resolution: want 1 to %d pixels, got %d", maxResolution, o.Resolution)
	}
	if o.CacheLimit < 0 {
		return fmt.Errorf("cache limit: want a number of bytes, got %d", o.CacheLimit)
	}
	if o.PriorWeight == 0 {
		o.PriorWeight = 1
	}
	if !(o.PriorWeight > 0) || math.IsInf(o.PriorWeight, 0) {
		return fmt.Errorf("prior loss weight: want a number above 0, got %v", o.PriorWeight)
	}
	if err := o.Buckets.defaults(); err != nil {
		return err
	}
	return o.Settings.defaults()
}

func (x *Settings) defaults() error {
	if x.Repeats == 0 {
		x.Repeats = 1
	}
	if x.Repeats < 1 || x.Repeats > maxRepeats {
		return fmt.Errorf("repeats: want 1 to %d, got %d", maxRepeats, x.Repeats)
	}
	if x.Separator == "" {
		x.Separator = ","
	}
	for _, rate := range []struct {
		name string
		is   float64
	}{{"caption dropout", x.Dropout}, {"caption part dropout", x.PartDropout}} {
		if !(rate.is >= 0 && rate.is <= 1) {
			return fmt.Errorf("%s: want a probability from 0 to 1, got %v", rate.name, rate.is)
		}
	}
	if x.KeepTokens < 0 {
		return fmt.Errorf("kept tokens: want 0 or more, got %d", x.KeepTokens)
	}
	if x.DropoutEvery < 0 {
		return fmt.Errorf("caption dropout every: want 0 or more epochs, got %d", x.DropoutEvery)
	}
	if x.Lines < JoinLines || x.Lines > RandomLine {
		return fmt.Errorf("lines: want %d to %d, got %d", JoinLines, RandomLine, x.Lines)
	}
	for _, text := range []string{x.ClassTokens, x.Prefix, x.Suffix, x.KeepSeparator, x.Separator, x.SecondSeparator} {
		if err := checkText(text); err != nil {
			return fmt.Errorf("%s: %w", quote.Quoted(text), err)
		}
	}
	if x.KeepSeparator != "" && x.KeepSeparator == x.Separator {
		return errors.New("the separator after kept tokens must differ from the separator between tokens")
	}
	return nil
}
