package vision

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/quote"
)

// place puts data at a path, whole or not at all. It is written to a file without a name, which the kernel removes with the process that
// wrote it; only to replace a file it needs a name for the moment between two system calls.
func place(path string, data []byte, overwrite bool) (err error) {
	dir := filepath.Dir(path)
	f, name, err := unnamed(dir)
	if err != nil {
		return err
	}
	defer func() {
		if name != "" {
			err = errors.Join(err, os.Remove(name))
		}
		err = errors.Join(err, f.Close())
	}()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	link := func(to string) error {
		if name != "" {
			return os.Link(name, to)
		}
		err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
		if err != nil {
			return &os.PathError{Op: "write", Path: to, Err: err}
		}
		return nil
	}
	if !overwrite {
		return link(path) // fails where the file has appeared meanwhile
	}
	if name == "" {
		if err := link(path); err == nil || !errors.Is(err, os.ErrExist) {
			return err
		}
		if name, err = free(dir); err != nil {
			return err
		}
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
			name = ""
			return &os.PathError{Op: "write", Path: path, Err: err}
		}
	}
	if err := os.Rename(name, path); err != nil {
		return err
	}
	name = ""
	return nil
}

// unnamed opens a file without a name in a folder, or a temporary one with a name where the file system or /proc cannot do that.
func unnamed(dir string) (f *os.File, name string, err error) {
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			return os.NewFile(uintptr(fd), dir), "", nil
		}
	}
	f, err = os.CreateTemp(dir, temporary)
	if err != nil {
		return nil, "", err
	}
	return f, f.Name(), nil
}

// temporary is the pattern of the names of files that are being written.
const temporary = ".onestep-*"

// free returns a name in a folder that no file has.
func free(dir string) (string, error) {
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Close(), os.Remove(f.Name()))
}
