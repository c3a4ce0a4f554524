package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/quote"
)

// WriteFolder makes a folder, which appears when the function has filled it: in place of an empty one, or with Overwrite of any. Otherwise
// what is there is an error that wraps fs.ErrExist. Folders are always durable; KeepLinks does not apply.
func WriteFolder(path string, o Options, fill func(dir string) error) (err error) {
	path = filepath.Clean(path)
	defer func() {
		if err != nil {
			err = failed(path, err)
		}
	}()
	parent := filepath.Dir(path)
	temp, lock, err := folder(parent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close(), os.RemoveAll(temp)) }() // what is left of it, or what it replaced
	if err := fill(temp); err != nil {
		return &elsewhere{err, temp, path}
	}
	if err := place(temp, path, o.Overwrite); err != nil {
		return err
	}
	return syncDir(parent)
}

// elsewhere is an error that speaks of paths in the folder that was to be made, not of the temporary one.
type elsewhere struct {
	error
	temp, path string
}

func (e *elsewhere) Error() string {
	return strings.ReplaceAll(e.error.Error(), quote.Path(e.temp), quote.Path(e.path))
}

func (e *elsewhere) Unwrap() error { return e.error }

// folder makes a locked folder with a temporary name.
func folder(parent string) (temp string, lock *os.File, err error) {
	for {
		temp = temporaryIn(parent)
		if err := os.Mkdir(temp, 0o777); err != nil { // with the permissions that the umask leaves
			return "", nil, err
		}
		lock, err = os.Open(temp)
		if err == nil && held(lock, temp) {
			return temp, lock, nil
		}
		if err == nil {
			_ = lock.Close() // swept away between the two calls
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, errors.Join(err, os.Remove(temp))
		}
	}
}

// place moves a folder to its path. What was there is under the temporary name afterwards, or gone.
func place(temp, path string, overwrite bool) error {
	err := unix.Rename(temp, path) // which replaces an empty one, unlike os.Rename
	if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	if !overwrite {
		return ErrExists
	}
	// Both at once: at no moment is neither there.
	err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// Not every file system can. The old one's name for the moment is none that is ever swept.
	old := strings.TrimSuffix(temp, ".tmp") + ".old"
	if err := os.Rename(path, old); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		if back := os.Rename(old, path); back != nil {
			err = fmt.Errorf("%w; what was there is now %s", err, quote.Path(old))
		}
		return err
	}
	return os.RemoveAll(old)
}
