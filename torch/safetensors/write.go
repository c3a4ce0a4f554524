package safetensors

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/quote"
)

// Source is a tensor to be written.
type Source struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar
	// Data returns the elements, little-endian, in the order of their indices. It is called once, when its turn in the
	// file has come, and the result is used until the next one's turn: so tensors may share a buffer.
	Data func() ([]byte, error)
}

// Bytes returns a Source's Data for elements that are in memory.
func Bytes(b []byte) func() ([]byte, error) {
	return func() ([]byte, error) { return b, nil }
}

// Options say how to write.
type Options struct {
	// Metadata are free-form strings for the header. Other libraries of the ecosystem want "format": "pt" here.
	Metadata map[string]string
	// Overwrite allows replacing what is there; otherwise writing fails with an error that wraps fs.ErrExist.
	Overwrite bool
}

// Write writes a safetensors file. The file appears under its name only when it is complete and on the disk; when writing
// fails, or Data panics, what was there before is still there and nothing else. The bytes depend only on names, types,
// shapes, data and metadata, and are those of the reference implementation, whose order of metadata is random where ours
// is sorted. A new file gets the permissions that the umask leaves, a replaced one keeps its own; one that nobody may
// write, and what is no regular file, are not replaced. A symbolic link is followed.
func Write(path string, tensors []Source, o Options) error {
	p, err := writePending(path, tensors, o)
	if err != nil {
		return err
	}
	return commit(p)
}

// writePending writes a complete file under a temporary name.
func writePending(path string, tensors []Source, o Options) (_ *pending, err error) {
	tensors, header, err := plan(tensors, o.Metadata)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	return newPending(path, o.Overwrite, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, t := range tensors {
			data, err := t.Data()
			if err != nil {
				return fmt.Errorf("tensor %s: %w", quote.Quoted(t.Name), err)
			}
			if size, _ := t.DType.bytesOf(t.Shape); len(data) != size {
				return fmt.Errorf("tensor %s: shape %v of %s needs %d bytes, got %d", quote.Quoted(t.Name), t.Shape, t.DType, size, len(data))
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return nil
	})
}

// plan checks the tensors, puts them in the order of the file and makes everything that comes before the data.
func plan(tensors []Source, metadata map[string]string) ([]Source, []byte, error) {
	names := make(map[string]struct{}, len(tensors))
	for _, t := range tensors {
		if err := t.check(); err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", quote.Quoted(t.Name), err)
		}
		if _, ok := names[t.Name]; ok {
			return nil, nil, fmt.Errorf("tensor %s comes twice", quote.Quoted(t.Name))
		}
		names[t.Name] = struct{}{}
	}
	tensors = slices.SortedFunc(slices.Values(tensors), func(a, b Source) int {
		return cmp.Or(a.DType.rank()-b.DType.rank(), cmp.Compare(a.Name, b.Name))
	})

	b := make([]byte, 8, 1024)
	b = append(b, '{')
	if len(metadata) > 0 {
		b = appendString(b, metadataKey)
		b = append(b, ':', '{')
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if !utf8.ValidString(k) || !utf8.ValidString(metadata[k]) {
				return nil, nil, fmt.Errorf("metadata %s is not UTF-8", quote.Quoted(k))
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, k)
			b = append(b, ':')
			b = appendString(b, metadata[k])
		}
		b = append(b, '}')
	}
	begin := 0
	for _, t := range tensors {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = appendString(b, t.Name)
		b = append(b, `:{"dtype":`...)
		b = appendString(b, string(t.DType))
		b = append(b, `,"shape":[`...)
		for i, v := range t.Shape {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(v), 10)
		}
		size, _ := t.DType.bytesOf(t.Shape)
		if size > math.MaxInt-begin {
			return nil, nil, errors.New("the tensors are larger than any file")
		}
		b = append(b, `],"data_offsets":[`...)
		b = strconv.AppendInt(b, int64(begin), 10)
		b = append(b, ',')
		begin += size
		b = strconv.AppendInt(b, int64(begin), 10)
		b = append(b, `]}`...)
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ') // so that the data begin aligned
	}
	if len(b)-8 > maxHeader {
		return nil, nil, fmt.Errorf("the header would be %d bytes long: want at most %d", len(b)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return tensors, b, nil
}

func (t Source) check() error {
	switch {
	case t.Name == metadataKey:
		return errors.New("the name is reserved for metadata")
	case !utf8.ValidString(t.Name):
		return errors.New("the name is not UTF-8")
	case t.DType.Bits() == 0:
		return fmt.Errorf("unknown dtype %s", quote.Quoted(string(t.DType)))
	case len(t.Shape) > maxDims:
		return fmt.Errorf("%d dimensions: want at most %d", len(t.Shape), maxDims)
	case slices.ContainsFunc(t.Shape, func(v int) bool { return v < 0 }):
		return fmt.Errorf("impossible shape %v", t.Shape)
	case t.Data == nil:
		return errors.New("it has no data")
	}
	if _, ok := t.DType.bytesOf(t.Shape); !ok {
		return fmt.Errorf("shape %v of %s is not a possible number of bytes", t.Shape, t.DType)
	}
	return nil
}

// appendString writes a JSON string as the reference implementation does: nothing is escaped that need not be.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if c < ' ' {
				b = fmt.Appendf(b, `\u%04x`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}

// pending is a complete file that waits under a temporary name in its folder.
type pending struct {
	tmp       string // the temporary name
	name      string // the name it shall have
	target    string // the same with a link followed
	overwrite bool
	named     bool // whether it has its name
}

// newPending writes a file with the function and flushes it to the disk.
func newPending(path string, overwrite bool, write func(io.Writer) error) (_ *pending, err error) {
	fail := func(err error) (*pending, error) { return nil, fmt.Errorf("write %s: %w", quote.Path(path), err) }
	target, mode, err := replaceable(path, overwrite)
	if err != nil {
		return fail(err)
	}
	dir, base := filepath.Split(target)
	tmp := dir + "." + base[:min(len(base), 100)] + ".tmp-" + rand.Text()
	p := &pending{tmp: tmp, name: path, target: target, overwrite: overwrite}
	f, err := os.OpenFile(p.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fail(err)
	}
	done := false
	defer func() {
		if !done { // also when write panics
			_ = f.Close()
			p.discard()
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	if err := write(w); err != nil {
		return fail(err)
	}
	if err := w.Flush(); err != nil {
		return fail(err)
	}
	if mode != 0 {
		if err := f.Chmod(mode); err != nil {
			return fail(err)
		}
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	done = true
	if err := f.Close(); err != nil {
		p.discard()
		return fail(err)
	}
	return p, nil
}

// replaceable follows path if it is a link, and returns the permissions of the file that is there, or 0 if none is.
func replaceable(path string, overwrite bool) (string, fs.FileMode, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	if !overwrite {
		return "", 0, errExists
	}
	if st.Mode()&fs.ModeSymlink != 0 {
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

var errExists = fmt.Errorf("%w: choose another name or allow overwriting", fs.ErrExist)

// commit gives the files their names, in that order, and makes these durable. On failure nothing is left of the files,
// except of those that have replaced others.
func commit(files ...*pending) (err error) {
	p := files[0]
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", quote.Path(p.name), err)
		}
		for _, p := range files {
			if !p.named {
				p.discard()
			} else if err != nil && !p.overwrite {
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
	return syncDir(filepath.Dir(p.target))
}

func (p *pending) rename() error {
	if p.overwrite {
		return os.Rename(p.tmp, p.target)
	}
	// A second name is refused when a file of that name has appeared meanwhile, where a rename would replace it.
	err := os.Link(p.tmp, p.target)
	if err == nil {
		p.discard()
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return errExists
	}
	// Some file systems have no second names.
	if _, err := os.Lstat(p.target); !errors.Is(err, fs.ErrNotExist) {
		return errExists
	}
	return os.Rename(p.tmp, p.target)
}

// discard removes the temporary name.
func (p *pending) discard() { _ = os.Remove(p.tmp) } // what led here is the error to report

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
