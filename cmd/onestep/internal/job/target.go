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

// writable makes sure, before long work, that files can be written to a directory, or, as long as there is none, to the one above it that
// exists: [MakeDirectory] makes it when there is something to write. It removes what killed processes left there half written.
func writable(dir string) error {
	if trimmed := strings.TrimRight(dir, "/"); trimmed != "" { // a file with a slash after it is named as such below
		dir = trimmed
	}
	wanted := dir
	st, err := os.Stat(dir)
	for ; errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir); st, err = os.Stat(dir) {
		if filepath.Base(dir) == ".." { // above a directory that does not exist
			break
		}
		dir = filepath.Dir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the directory %s does not exist", quote.Path(wanted))
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", quote.Path(dir))
	}
	if err := atomicfile.Probe(dir); err != nil {
		return fmt.Errorf("nothing can be written in the directory %s: %w", quote.Path(dir), err)
	}
	if dir == wanted {
		atomicfile.Sweep(dir)
	}
	return nil
}

// MakeDirectory makes the directory that a file is to be in, and those above it.
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

// directoryOf is the directory that the system looks for a path in. Unlike filepath.Dir it resolves no "..": what is before it has to be there.
func directoryOf(path string) string {
	dir, _ := filepath.Split(strings.TrimRight(path, "/"))
	return cmp.Or(dir, ".")
}

// replaceable makes sure, before long work, that what is at a path that may be overwritten is a file that can be.
func replaceable(path string, keepLinks bool) error {
	return atomicfile.Check(path, atomicfile.Options{Overwrite: true, KeepLinks: keepLinks})
}

// Writable makes sure, before long work, that --out FILE or --out DIR can be written, and removes what killed processes left beside it half
// written.
func Writable(out string) error {
	if err := writable(directoryOf(out)); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	st, err := os.Stat(out)
	if err == nil && !st.IsDir() { // a directory, and what may not be overwritten, is another question
		return replaceable(out, true)
	}
	return nil
}
