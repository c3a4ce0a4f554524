package captioned

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// Summary is what a set holds, to be shown before training starts.
type Summary struct {
	Images         int            // that are used
	Samples        int64          // in an epoch: images times their repeats
	Regularization int            // of the images
	Buckets        []BucketCount  // by width and height
	Uncaptioned    int            // images that the data has no caption for
	ClassTokens    int            // of these, those whose caption is class tokens
	Corrupt        []error        // of images that were left out since they cannot be read, each a *dataset.CorruptError
	LeftOut        map[string]int // image files in formats that are not supported, by extension
}

// BucketCount is the number of images of a bucket.
type BucketCount struct {
	Width, Height int
	Images        int
	Samples       int64 // in an epoch
}

// String is the summary in a few lines.
func (s Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", plural.N(s.Images, "image"))
	if s.Samples != int64(s.Images) {
		fmt.Fprintf(&b, ", %s in an epoch", plural.N(s.Samples, "sample"))
	}
	if s.Regularization > 0 {
		fmt.Fprintf(&b, ", %d of the images for regularisation", s.Regularization)
	}
	if s.Uncaptioned > 0 {
		fmt.Fprintf(&b, "\n%d with captions, %d without", s.Images-s.Uncaptioned, s.Uncaptioned)
		if s.ClassTokens > 0 {
			fmt.Fprintf(&b, ", of which %d use the class tokens", s.ClassTokens)
		}
	} else {
		b.WriteString("\nall with captions")
	}
	if n := len(s.Buckets); n > 8 {
		fmt.Fprintf(&b, "\n%d buckets, with their numbers of images:", n)
	}
	for i, x := range s.Buckets {
		// Few buckets have a line each, and many are put side by side.
		between, image := "\n", plural.N(x.Images, "image")
		if len(s.Buckets) > 8 {
			if image = fmt.Sprint(x.Images); i%8 > 0 {
				between = ", "
			}
		}
		fmt.Fprintf(&b, "%s%d×%d: %s", between, x.Width, x.Height, image)
		if len(s.Buckets) <= 8 && x.Samples != int64(x.Images) {
			fmt.Fprintf(&b, ", %s", plural.N(x.Samples, "sample"))
		}
	}
	if len(s.Corrupt) > 0 {
		fmt.Fprintf(&b, "\nleft out: %s", plural.N(len(s.Corrupt), "corrupt image"))
	}
	if len(s.LeftOut) > 0 {
		fmt.Fprintf(&b, "\nleft out: %s (formats that are not supported)", imagefile.Counts(s.LeftOut))
	}
	return b.String()
}
