package plainfile

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/onestep-go/onestep/internal/quote"
)

// maxEntries is the largest number of files and directories that [Walk] visits.
var maxEntries = 100_000

// Walk calls each for the files below a directory, in order of their names. Subdirectories that cannot be read are skipped, as a directory of
// a user may hold some of others. Directories with more than 100,000 entries, such as a whole file system, are an error.
func Walk(dir string, each func(path string) error) error {
	n := 0
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch n++; {
		case n > maxEntries:
			return fmt.Errorf("%s: want a directory with at most %d files and directories below it, to search them", quote.Path(dir), maxEntries)
		case err != nil && path != dir && e.IsDir():
			return fs.SkipDir
		case err != nil:
			return quote.Error(err)
		case e.IsDir():
			return nil
		}
		return each(path)
	})
}
