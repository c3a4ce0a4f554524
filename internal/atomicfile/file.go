// Package atomicfile writes files and folders that appear under their names when they are complete, and not before. What a process leaves
// that is killed meanwhile is nothing, where the file system has files without names (O_TMPFILE), and otherwise something that [Sweep]
// knows as left behind.
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

// Options say how to write a file.
type Options struct {
	Overwrite bool // replace what is there; otherwise it is an error that wraps fs.ErrExist
	KeepLinks bool // a symbolic link at the path stays, and the file that it points to is replaced; otherwise the link is
	Durable   bool // the name, too, is on the disk when the function returns, and not the content alone
}

// Write writes a file with the function. When that fails or panics, what was there before is still there, and nothing else. A new file gets
// the permissions that the umask leaves; a replaced one keeps its own. A file that nobody may write, and what is no regular file, are not
// replaced.
func Write(path string, o Options, write func(io.Writer) error) error {
	f, err := Prepare(path, o, write)
	if err != nil {
		return err
	}
	return Commit(f)
}

// WriteBytes is [Write] of what is in memory.
func WriteBytes(path string, o Options, data []byte) error {
	return Write(path, o, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// File is a complete file, on the disk, that does not have its name yet. It goes when it is not committed.
type File struct {
	f       *os.File
	temp    string // its temporary name, if it has one
	path    string // the name that it shall have
	target  string // the same with links followed
	options Options
	named   bool // whether it has its name
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

// Discard gives a file up. After [Commit] it does nothing.
func (p *File) Discard() {
	if p.temp != "" {
		_ = os.Remove(p.temp) // what led here is the error to report
		p.temp = ""
	}
	_ = p.f.Close() // nothing of it is kept
}

// Commit gives files their names, in that order. On failure nothing is left of them, except of those that have replaced others.
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

// rename gives a file its name.
func (p *File) rename() error {
	// A second name is refused when a file of that name has appeared meanwhile, where a rename would replace it.
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
	case !p.options.Overwrite: // some file systems have no second names
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

// link gives a file another name.
func (p *File) link(to string) error {
	if p.temp != "" {
		return os.Link(p.temp, to)
	}
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", p.f.Fd()), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
}

// Check tells, before long work, whether a file of this name could be written or replaced, apart from room for it.
func Check(path string, o Options) error {
	if _, _, err := replaceable(path, o); err != nil {
		return failed(path, err)
	}
	return nil
}

// replaceable returns what is to be replaced at a path, and the permissions of the file that is there, or 0 if none is.
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

// ErrExists is returned where something is that is not to be overwritten. It wraps fs.ErrExist.
var ErrExists = fmt.Errorf("%w: choose another name or allow overwriting", fs.ErrExist)

// failed says once which file could not be written.
func failed(path string, err error) error {
	switch of := err.(type) { //nolint:errorlint // what is around an error of the system is the text of others
	case *fs.PathError:
		if err = quote.Error(err); of.Path == path {
			err = of.Err
		}
	case *os.LinkError:
		if err = quote.Error(err); of.New == path {
			err = of.Err
		}
	}
	const over = "it is over the limit on the size of files (ulimit -f), or over what the file system holds"
	if errors.Is(err, unix.EFBIG) && !strings.Contains(err.Error(), over) { // as it does of a file in a folder
		err = fmt.Errorf("%w: %s", err, over)
	}
	return fmt.Errorf("write %s: %w", quote.Path(path), err)
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) {
		err = nil // not every file system can
	}
	return errors.Join(err, d.Close())
}
