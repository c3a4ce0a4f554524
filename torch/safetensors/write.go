package safetensors

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/atomicfile"
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
	p, err := prepare(path, tensors, o)
	if err != nil {
		return err
	}
	return atomicfile.Commit(p)
}

// how is how files are written.
func (o Options) how() atomicfile.Options {
	return atomicfile.Options{Overwrite: o.Overwrite, KeepLinks: true, Durable: true}
}

// prepare writes a complete file that has no name yet.
func prepare(path string, tensors []Source, o Options) (_ *atomicfile.File, err error) {
	tensors, header, err := plan(tensors, o.Metadata)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	return atomicfile.Prepare(path, o.how(), func(w io.Writer) error {
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
