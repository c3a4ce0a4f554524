// Package atomicfile writes files and directories that appear under their names only when they are complete. A process that is killed while
// writing leaves nothing behind if the file system supports unnamed files (O_TMPFILE), and otherwise a temporary file that [Sweep] removes.
package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/quote"
)

// Options are the settings for writing a file.
type Options struct {
	Overwrite bool // replace an existing file; otherwise it is an error that wraps fs.ErrExist
	KeepLinks bool // follow a symbolic link at the path and replace its target; otherwise the link is replaced
	Durable   bool // also sync the directory, so that the name is on disk when the function returns
}

// Write writes a file with the function. If that fails or panics, the previous file is unchanged and no other file is left. A new file gets
// the permissions of the umask; a replaced one keeps its own. Read-only files and files that are not regular are not replaced.
func Write(path string, o Options, write func(io.Writer) error) error {
	f, err := Prepare(path, o, write)
	if err != nil {
		return err
	}
	return Commit(f)
}

// WriteBytes is [Write] for data in memory.
func WriteBytes(path string, o Options, data []byte) error {
	return Write(path, o, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// File is a complete file on disk that does not have its name yet. [Commit] names it, [File.Discard] removes it.
type File struct {
	f       *os.File
	temp    string // its temporary name, if it has one
	path    string // the name that it will have
	target  string // path with links followed
	options Options
	named   bool // whether it has been named
}

// Prepare writes a file for [Commit].
func Prepare(path string, o Options, write func(io.Writer) error) (_ *File, err error) {
	target, mode, err := replaceable(path, o)
	if err != nil {
		return nil, failed(path, err)
	}
	f, temp, err := create(filepath.Dir(target), path)
	if err != nil {
		return nil, failed(path, err)
	}
	p := &File{f: f, temp: temp, path: path, target: target, options: o}
	done := false
	defer func() {
		if !done { // also when write panics
			p.Discard()
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	if err := write(w); err != nil {
		return nil, failed(path, err)
	}
	if err := w.Flush(); err != nil {
		return nil, failed(path, err)
	}
	if mode != 0 {
		if err := f.Chmod(mode); err != nil {
			return nil, failed(path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return nil, failed(path, err)
	}
	done = true
	return p, nil
}

// Discard removes the file. After [Commit] it does nothing.
func (p *File) Discard() {
	if p.temp != "" {
		_ = os.Remove(p.temp) // an earlier error is the one to report
		p.temp = ""
	}
	_ = p.f.Close() // its data is dropped
}

// Commit gives the files their names, in order. On failure it removes them all, except those that have replaced others.
func Commit(files ...*File) (err error) {
	p := files[0]
	defer func() {
		if err != nil {
			err = failed(p.path, err)
		}
		for _, p := range files {
			p.Discard()
			if err != nil && p.named && !p.options.Overwrite {
				err = errors.Join(err, os.Remove(p.target))
			}
		}
	}()
	for _, p = range files {
		if err := p.rename(); err != nil {
			return err
		}
		p.named = true
	}
	if p.options.Durable {
		return syncDir(filepath.Dir(p.target))
	}
	return nil
}

// rename gives the file its name.
func (p *File) rename() error {
	// Linking fails if a file with that name has appeared meanwhile; renaming would replace it.
	err := p.link(p.target)
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, fs.ErrExist) && !p.options.Overwrite:
		return ErrExists
	case errors.Is(err, fs.ErrExist) && p.temp == "":
		if p.temp, err = free(p.target, p.link); err != nil {
			return err
		}
	case p.temp == "":
		return err
	case !p.options.Overwrite: // some file systems do not support hard links
		if _, err := os.Lstat(p.target); !errors.Is(err, fs.ErrNotExist) {
			return ErrExists
		}
	}
	if err := os.Rename(p.temp, p.target); err != nil {
		return err
	}
	p.temp = ""
	return nil
}

// link gives the file another name.
func (p *File) link(to string) error {
	if p.temp != "" {
		return os.Link(p.temp, to)
	}
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", p.f.Fd()), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
}

// Check returns an error, before long work, if a file with this name could not be written or replaced; it does not check for disk space.
func Check(path string, o Options) error {
	if _, _, err := replaceable(path, o); err != nil {
		return failed(path, err)
	}
	return nil
}

// replaceable returns the path to replace, and the permissions of the existing file, or 0 without one.
func replaceable(path string, o Options) (string, fs.FileMode, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	if !o.Overwrite {
		return "", 0, ErrExists
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		if !o.KeepLinks {
			return path, 0, nil
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", 0, err
		}
		if st, err = os.Stat(path); err != nil {
			return "", 0, err
		}
	}
	if !st.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s is not a regular file", quote.Path(path))
	}
	if st.Mode()&0o222 == 0 {
		return "", 0, fmt.Errorf("%s is read-only: %w", quote.Path(path), fs.ErrPermission)
	}
	return path, st.Mode().Perm(), nil
}

// ErrExists is returned if a file exists that may not be overwritten. It wraps fs.ErrExist.
var ErrExists = fmt.Errorf("%w: choose another name or allow overwriting", fs.ErrExist)

// failed adds the path to an error, once.
func failed(path string, err error) error {
	switch of := err.(type) { //nolint:errorlint // only errors of the system that are not wrapped
	case *fs.PathError:
		if err = quote.Error(err); of.Path == path {
			err = of.Err
		}
	case *os.LinkError:
		if err = quote.Error(err); of.New == path {
			err = of.Err
		}
	}
	const over = "it exceeds the limit on file sizes (ulimit -f) or the largest file of the file system"
	if errors.Is(err, unix.EFBIG) && !strings.Contains(err.Error(), over) { // already added for a file in a directory
		err = fmt.Errorf("%w: %s", err, over)
	}
	return fmt.Errorf("write %s: %w", quote.Path(path), err)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) {
		err = nil // not supported by every file system
	}
	return errors.Join(err, d.Close())
}
