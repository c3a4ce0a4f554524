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

// WriteFolder makes a directory that appears when the function has filled it. It replaces an empty directory, and with Overwrite any;
// otherwise an existing file or directory is an error that wraps fs.ErrExist. Directories are always durable; KeepLinks does not apply.
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
	defer func() { err = errors.Join(err, lock.Close(), os.RemoveAll(temp)) }() // a partial directory, or the one replaced
	if err := fill(temp); err != nil {
		return &elsewhere{err, temp, path}
	}
	if err := place(temp, path, o.Overwrite); err != nil {
		return err
	}
	return syncDir(parent)
}

// elsewhere is an error that names paths in the final directory instead of the temporary one.
type elsewhere struct {
	error
	temp, path string
}

func (e *elsewhere) Error() string {
	return strings.ReplaceAll(e.error.Error(), quote.Path(e.temp), quote.Path(e.path))
}

func (e *elsewhere) Unwrap() error { return e.error }

// folder makes a locked directory with a temporary name.
func folder(parent string) (temp string, lock *os.File, err error) {
	for {
		temp = temporaryIn(parent)
		if err := os.Mkdir(temp, 0o777); err != nil { // with the permissions of the umask
			return "", nil, err
		}
		lock, err = os.Open(temp)
		if err == nil && held(lock, temp) {
			return temp, lock, nil
		}
		if err == nil {
			_ = lock.Close() // removed by Sweep between the two calls
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, errors.Join(err, os.Remove(temp))
		}
	}
}

// place moves a directory to its path. The previous directory is afterwards under the temporary name, or removed.
func place(temp, path string, overwrite bool) error {
	err := unix.Rename(temp, path) // replaces an empty directory, unlike os.Rename
	if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	if !overwrite {
		return ErrExists
	}
	// Exchange the two atomically: at every moment one of them is there.
	err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// Not supported by every file system. Sweep ignores the temporary name of the old directory.
	old := strings.TrimSuffix(temp, ".tmp") + ".old"
	if err := os.Rename(path, old); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		if back := os.Rename(old, path); back != nil {
			err = fmt.Errorf("%w; the previous directory is now %s", err, quote.Path(old))
		}
		return err
	}
	return os.RemoveAll(old)
}

// Writable checks before long work that files can be written to a directory or, if it does not exist, to the nearest parent that does. It removes temporary files that killed processes left there.
func Writable(dir string) error {
	if trimmed := strings.TrimRight(dir, "/"); trimmed != "" { // a file with a trailing slash is reported below
		dir = trimmed
	}
	wanted := dir
	st, err := os.Stat(dir)
	for ; errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir); st, err = os.Stat(dir) {
		if link, err := os.Lstat(dir); err == nil && link.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a symbolic link whose target does not exist", quote.Path(dir))
		}
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
	if err := Probe(dir); err != nil {
		return fmt.Errorf("cannot write to the directory %s: %w", quote.Path(dir), err)
	}
	if dir == wanted {
		Sweep(dir)
	}
	return nil
}
