package captioned

import (
	"errors"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/quote"
)

// Options say how a set's images are used. What a dataset TOML says of its images comes before them.
type Options struct {
	Resolution int     // of the bucket, or of the square whose area buckets have, in pixels; 0: 512
	Buckets    Buckets // zero value: one bucket, a square of Resolution pixels
	Settings           // of all images

	// Column names the captions in metadata.jsonl and metadata.csv. "": text, caption or prompt.
	Column string
	// Cache is the directory that downloaded shards are kept in; "": onestep/shards in the user's cache directory.
	Cache string
	// Downloading is told how many bytes there are of a shard that is downloaded, and of all of it, -1 if that is unknown; nil: nobody.
	Downloading func(shard string, done, all int64)
	// CacheLimit is the most that the shards of a set may have that are downloaded or written by a command, in bytes; 0: 64 GiB.
	CacheLimit int64
	// Prior is a directory of regularisation images, laid out as the others; "": none.
	Prior string
	// PriorWeight is the factor of the loss of regularisation images (prior loss weight). 0: 1.
	PriorWeight float64
	// Uncaptioned allows images without a caption, which are trained with an empty one. Otherwise they are an error.
	Uncaptioned bool
	// SkipCorrupt leaves out images that cannot be read, which Summary counts. Otherwise they are an error.
	SkipCorrupt bool
	// Progress is told how many images of all have been looked at, from one goroutine at a time; nil: nobody.
	Progress func(done, all int)
}

// Settings are how the images of a subset are used. The zero value uses each once an epoch, center-cropped, with its caption as it is.
type Settings struct {
	Repeats        int    // times that an image is used in an epoch; 0: 1
	ClassTokens    string // the caption of images without one
	Regularization bool   // images of the class, which keep the model from forgetting it (prior preservation)

	RandomCrop bool // crop anywhere instead of at the center
	Flip       bool // mirror every other image left to right, at random

	Lines           Lines   // which line of a caption file is the caption
	Wildcards       bool    // {red|green} in a caption is one of them, at random; {{ and }} are braces
	Prefix, Suffix  string  // put before and after each caption, with a space
	Shuffle         bool    // shuffle the parts of a caption between separators, but the first KeepTokens
	KeepTokens      int     // parts at the caption's start that are neither shuffled nor dropped
	KeepSeparator   string  // parts before its first and after its second occurrence in a caption are kept instead, such as |||
	Separator       string  // between a caption's parts; "": a comma
	SecondSeparator string  // replaced by Separator after shuffling, so that parts stay together
	Dropout         float64 // fraction of samples that are trained with an empty caption
	DropoutEvery    int     // every so many epochs all captions are empty; 0: never
	PartDropout     float64 // fraction of a caption's parts that are dropped, kept ones excepted
}

// Lines says which lines of a caption file are the caption.
type Lines int

const (
	JoinLines  Lines = iota // all, joined by spaces
	FirstLine               // the first
	RandomLine              // each is a caption of its own, one of which is drawn
)

// Buckets are image sizes by aspect ratio, as kohya's training scripts make them.
type Buckets struct {
	Enable    bool
	Min, Max  int  // of a bucket's sides, in pixels; 0: 256 and 1024
	Step      int  // sides are multiples of it; 0: 64
	NoUpscale bool // never enlarge an image: those smaller than a bucket get a smaller one
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
			return fmt.Errorf("%s: want 0 to 1, got %v", rate.name, rate.is)
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
