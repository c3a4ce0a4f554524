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

// Source is a tensor to write.
type Source struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar
	// Data returns the elements, little-endian, in the order of their indices. It is called once, in the order of
	// the file, and the result is used until the next call: so tensors may share a buffer.
	Data func() ([]byte, error)
}

// Bytes returns a [Source]'s Data for elements in memory.
func Bytes(b []byte) func() ([]byte, error) {
	return func() ([]byte, error) { return b, nil }
}

// Options are the settings of [Write] and [WriteSharded].
type Options struct {
	// Metadata are free-form strings for the header. transformers and diffusers require "format": "pt" here.
	Metadata map[string]string
	// Overwrite allows replacing existing files; otherwise writing fails with an error that wraps fs.ErrExist.
	Overwrite bool
}

// Write writes a safetensors file. The file appears under its name only when it is complete and on disk; when writing
// fails, or Data panics, the previous file is unchanged and no other file is left. The bytes depend only on names, types,
// shapes, data and metadata, and match the reference implementation, except that metadata is sorted here and in random
// order there. A new file gets the permissions of the umask, a replaced one keeps its own; read-only files and files that
// are not regular are not replaced. A symbolic link is followed.
func Write(path string, tensors []Source, o Options) error {
	p, err := prepare(path, tensors, o)
	if err != nil {
		return err
	}
	return atomicfile.Commit(p)
}

// how returns the settings for package atomicfile.
func (o Options) how() atomicfile.Options {
	return atomicfile.Options{Overwrite: o.Overwrite, KeepLinks: true, Durable: true}
}

// prepare writes a complete file that does not have its name yet.
func prepare(path string, tensors []Source, o Options) (_ *atomicfile.File, err error) {
	tensors, header, err := plan(tensors, o.Metadata)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	return atomicfile.Prepare(path, o.how(), func(w io.Writer) error { return encode(w, tensors, header) })
}

// Encode writes the bytes of a safetensors file to w, as [Write] does to a file. It calls the tensors' Data, as Write will again.
func Encode(w io.Writer, tensors []Source, metadata map[string]string) error {
	tensors, header, err := plan(tensors, metadata)
	if err != nil {
		return err
	}
	return encode(w, tensors, header)
}

func encode(w io.Writer, tensors []Source, header []byte) error {
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
}

// plan checks the tensors, sorts them in file order and encodes everything before the data.
func plan(tensors []Source, metadata map[string]string) ([]Source, []byte, error) {
	names := make(map[string]struct{}, len(tensors))
	for _, t := range tensors {
		if err := t.check(); err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", quote.Quoted(t.Name), err)
		}
		if _, ok := names[t.Name]; ok {
			return nil, nil, fmt.Errorf("tensor %s occurs twice", quote.Quoted(t.Name))
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
		b = append(b, ' ') // so that the data begins aligned
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
		return fmt.Errorf("invalid shape %v", t.Shape)
	case t.Data == nil:
		return errors.New("it has no data")
	}
	if _, ok := t.DType.bytesOf(t.Shape); !ok {
		return fmt.Errorf("shape %v of %s is too large, or not a whole number of bytes", t.Shape, t.DType)
	}
	return nil
}

// appendString writes a JSON string as the reference implementation does: only what has to be is escaped.
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
