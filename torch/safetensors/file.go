package safetensors

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/quote"
)

const (
	suffix      = ".safetensors"
	indexSuffix = ".safetensors.index.json"
)

// File is an open file, or a set of shards opened as one.
type File struct {
	path     string
	tensors  []Tensor
	byName   map[string]int
	metadata map[string]string
	maps     [][]byte
}

// Open maps a safetensors file into memory. The path may also name an index (*.safetensors.index.json), whose shards are
// then opened as one set, or a directory that holds one index or else one safetensors file.
//
// The maps are private: writing to [Tensor.Data] changes this process's copy of the page and never the file. A file must
// not be truncated while it is open, because accessing the lost pages kills the process with SIGBUS; replacing it by rename, as
// this package's writers do, is safe. Damaged files give a [*FormatError], the system's errors an [*fs.PathError].
func Open(path string) (*File, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		if path, err = choose(path); err != nil {
			return nil, err
		}
	}
	if strings.HasSuffix(path, ".index.json") {
		return openIndex(path)
	}
	m, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, m)
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(m))
	}
	f.maps = [][]byte{m}
	return f, nil
}

// choose finds the file in a directory that Open opens.
func choose(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var indexes, files []string
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasSuffix(name, indexSuffix):
			indexes = append(indexes, name)
		case strings.HasSuffix(name, suffix):
			files = append(files, name)
		}
	}
	if len(indexes) == 1 {
		return filepath.Join(dir, indexes[0]), nil
	}
	if len(indexes) == 0 && len(files) == 1 {
		return filepath.Join(dir, files[0]), nil
	}
	all := slices.Concat(indexes, files)
	if len(all) == 0 {
		return "", fmt.Errorf("%s: the directory has no %s or %s file: %w", quote.Path(dir), suffix, indexSuffix, fs.ErrNotExist)
	}
	const most = 8
	more := ""
	if len(all) > most {
		all, more = all[:most], ", ..."
	}
	return "", fmt.Errorf("%s: the directory has several files, pass one of them: %s%s", quote.Path(dir), strings.Join(quote.Texts(all), ", "), more)
}

// mapFile maps a whole file privately. It refuses empty files and files that are not regular.
func mapFile(path string) (_ []byte, err error) {
	regular := func(st fs.FileInfo) error {
		if !st.Mode().IsRegular() {
			return &FormatError{Path: path, Msg: "it is not a regular file"}
		}
		return nil
	}
	st, err := os.Stat(path) // before opening, which waits when the path is a named pipe
	if err != nil {
		return nil, err
	}
	if err := regular(st); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	if err := regular(st); err != nil {
		return nil, err
	}
	if st.Size() == 0 {
		return nil, &FormatError{Path: path, Msg: "it is empty"}
	}
	// Writable, so that changing a tensor in place copies a page instead of killing the process; without a reservation,
	// so that the file may be larger than memory.
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, &fs.PathError{Op: "mmap", Path: path, Err: err}
	}
	return m, nil
}

// index builds the lookup by name. It refuses duplicate names.
func (f *File) index() error {
	f.byName = make(map[string]int, len(f.tensors))
	for i, t := range f.tensors {
		if j, ok := f.byName[t.Name]; ok {
			msg := fmt.Sprintf("tensor %s occurs twice", quote.Quoted(t.Name))
			if other := f.tensors[j].Path; other != t.Path {
				msg += fmt.Sprintf(", in %s and in %s", quote.Path(other), quote.Path(t.Path))
			}
			return &FormatError{Path: f.path, Msg: msg}
		}
		f.byName[t.Name] = i
	}
	return nil
}

// Path returns the path that was opened: the file's, or the index's.
func (f *File) Path() string { return f.path }

// Len returns the number of tensors.
func (f *File) Len() int { return len(f.tensors) }

// Tensors yields the tensors in the order of their data, shard after shard.
func (f *File) Tensors() iter.Seq[Tensor] { return slices.Values(f.tensors) }

// Tensor returns the tensor with that name, and whether there is one.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Release tells the system that a tensor's elements will not be needed soon: the pages of the map that they fill no longer
// count as this process's memory, and are read from the file on the next access. Changes made in place are lost. It does
// nothing for an unknown name or a file parsed from memory.
func (f *File) Release(name string) {
	t, ok := f.Tensor(name)
	if !ok || len(f.maps) == 0 || len(t.Data) == 0 {
		return
	}
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))
	from := (page - start%page) % page
	if n := uintptr(len(t.Data)); n >= from+page {
		_ = unix.Madvise(t.Data[from:n-(n-from)%page], unix.MADV_DONTNEED) // a hint: if it fails, the pages only stay longer
	}
}

// Metadata returns a copy of the header's free-form strings; empty when there are none. Of a sharded set it returns the
// entries on which all shards agree.
func (f *File) Metadata() map[string]string {
	if f.metadata == nil {
		return map[string]string{}
	}
	return maps.Clone(f.metadata)
}

// Close unmaps the file: every [Tensor.Data] of it becomes invalid, and accessing it kills the process. Closing twice does
// nothing.
func (f *File) Close() error {
	var errs []error
	for _, m := range f.maps {
		if err := unix.Munmap(m); err != nil {
			errs = append(errs, &fs.PathError{Op: "munmap", Path: f.path, Err: err})
		}
	}
	f.maps, f.tensors, f.byName = nil, nil, nil
	return errors.Join(errs...)
}
