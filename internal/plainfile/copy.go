package plainfile

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/onestep-go/onestep/internal/quote"
)

// CopyTo copies a file to w, such as a hash, from the position where begin leaves it; nil: from the start. Gigabytes take seconds: it stops
// when ctx is cancelled. Of a file that grows meanwhile it copies no more than the size that it had.
func CopyTo(ctx context.Context, w io.Writer, path string, begin func(*os.File) error) error {
	f, size, err := Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if begin != nil {
		err = begin(f)
	}
	if err == nil {
		_, err = io.Copy(w, io.LimitReader(whileFunc(func(p []byte) (int, error) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return f.Read(p)
		}), size))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", quote.Path(path), quote.Error(err))
	}
	return nil
}

// whileFunc is a function that implements io.Reader.
type whileFunc func(p []byte) (int, error)

func (f whileFunc) Read(p []byte) (int, error) { return f(p) }
