// Package plainfile opens untrusted files. A path may be a named pipe, on which a program would block, or an endless device: only regular
// files are opened, and checking that does not block.
package plainfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/quote"
)

// ErrNotRegular is wrapped by errors about files that are not regular.
var ErrNotRegular = errors.New("want a regular file")

// ErrTooLarge is wrapped by [Read]'s error about a file over its limit.
var ErrTooLarge = errors.New("the file is too large")

// Open opens a regular file and returns its size in bytes.
func Open(path string) (*os.File, int64, error) { return open(path, fs.FileMode.IsRegular) }

// Stream opens a regular file or a pipe, such as a shell's <(command). A named pipe without a writer is empty.
func Stream(path string) (*os.File, error) {
	f, _, err := open(path, func(mode fs.FileMode) bool { return mode.IsRegular() || mode.Type() == fs.ModeNamedPipe })
	return f, err
}

func open(path string, wanted func(fs.FileMode) bool) (_ *os.File, size int64, err error) {
	// Checked before opening, because opening some devices has effects, and after it, because the file may have changed. With O_NONBLOCK,
	// opening a named pipe does not wait for the other end.
	st, err := os.Stat(path)
	if err != nil {
		return nil, 0, quote.Error(err)
	}
	if !wanted(st.Mode()) {
		return nil, 0, notRegular(path, st.Mode())
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, quote.Error(err)
	}
	if st, err = f.Stat(); err == nil && !wanted(st.Mode()) {
		err = notRegular(path, st.Mode())
	}
	if err != nil {
		return nil, 0, errors.Join(quote.Error(err), f.Close())
	}
	return f, st.Size(), nil
}

// Read reads a regular file of at most most bytes.
func Read(path string, most int64) (_ []byte, err error) {
	f, size, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size > most {
		return nil, fmt.Errorf("%s: %w: it has %d bytes, want at most %d", quote.Path(path), ErrTooLarge, size, most)
	}
	data := make([]byte, 0, size+1) // one more byte, to detect the end
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > most: // it has grown, or is a system file without a size
			return nil, fmt.Errorf("%s: %w: want at most %d bytes", quote.Path(path), ErrTooLarge, most)
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, quote.Error(err)
		case len(data) == cap(data):
			data = append(data, 0)[:len(data)]
		}
	}
}

func notRegular(path string, mode fs.FileMode) error {
	is := "a device"
	switch {
	case mode.IsDir():
		is = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		is = "a named pipe"
	case mode&fs.ModeSocket != 0:
		is = "a socket"
	}
	return fmt.Errorf("%s: it is %s: %w", quote.Path(path), is, ErrNotRegular)
}
