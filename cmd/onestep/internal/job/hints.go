package job

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// hinted adds the flag that helps to an error of the libraries, which do not name flags.
func hinted(err error) error {
	if errors.Is(err, rundir.ErrHoldsRun) {
		return fmt.Errorf("%w: pass --resume to continue it, or choose another directory", err)
	}
	return err
}

// skippable adds to the error of a corrupt image the flag that skips such images, unless it was passed.
func (o Train) skippable(err error) error {
	var corrupt *dataset.CorruptError
	if o.Corrupt != "skip" && errors.As(err, &corrupt) {
		return fmt.Errorf("%w; repair or remove it, or pass --corrupt skip", err)
	}
	return err
}
