package job

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// MakeDirectory creates the directory of a file and its parents.
func MakeDirectory(file string) error { return os.MkdirAll(directoryOf(file), 0o777) }

// makeDirectories does so for several files.
func makeDirectories(files ...string) error {
	made := map[string]bool{}
	for _, f := range files {
		if dir := directoryOf(f); !made[dir] {
			made[dir] = true
			if err := MakeDirectory(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// directoryOf is the directory in which the system looks up a path. Unlike filepath.Dir it does not resolve "..", whose parent has to exist.
func directoryOf(path string) string {
	dir, _ := filepath.Split(strings.TrimRight(path, "/"))
	return cmp.Or(dir, ".")
}

// replaceable checks before long work that a path that may be overwritten is a file that can be.
func replaceable(path string, keepLinks bool) error {
	return atomicfile.Check(path, atomicfile.Options{Overwrite: true, KeepLinks: keepLinks})
}

// mayWrite checks before long work that a file may be written: it is not there, or may be replaced.
func mayWrite(path string, overwrite bool) error {
	if overwrite {
		return replaceable(path, false)
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: choose another name or pass --overwrite", quote.Path(path))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Writable checks before long work that --out FILE or --out DIR can be written, and removes temporary files that killed processes left next
// to it.
func Writable(out string) error {
	if err := atomicfile.Writable(directoryOf(out)); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	st, err := os.Stat(out)
	if err == nil && !st.IsDir() { // directories, and files that may not be overwritten, are checked elsewhere
		return replaceable(out, true)
	}
	return nil
}
