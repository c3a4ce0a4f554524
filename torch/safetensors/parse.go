package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
	"unsafe"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/quote"
)

const (
	maxHeader   = 100_000_000 // bytes; the reference implementation's limit
	maxDims     = 64          // libtorch's and NumPy's limit
	maxTensors  = 1 << 18     // ten times as many as the largest files have; without a limit, a header holds millions
	maxMetadata = 1 << 16     // entries; trainers write about a hundred
	metadataKey = "__metadata__"
)

// FormatError is the error of a damaged or hostile file, or one of another format.
type FormatError struct {
	Path string // the file
	Msg  string // what is wrong with it
}

// Error names the file and what is wrong with it.
func (e *FormatError) Error() string {
	return quote.Path(e.Path) + ": not a valid safetensors file: " + e.Msg
}

// Tensor is one tensor of a file.
type Tensor struct {
	Name  string
	DType DType
	Shape []int  // empty for a scalar
	Data  []byte // the elements, little-endian, in the order of their indices: a view that is valid until [File.Close]
	Path  string // the file that holds it: in a sharded set, the shard

	begin int // offset of Data in the data section
}

// Aligned reports whether the elements are aligned to their size in memory, as most processors and libtorch require. They are
// in files of the common writers, which pad the header; they may not be in other files and in slices passed to [Parse].
func (t Tensor) Aligned() bool {
	size := t.DType.Bits() / 8
	return size <= 1 || uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))%uintptr(size) == 0
}

// Parse reads a file that is already in memory, such as an embedded one, without copying it: the tensors are views of data.
// Errors use name as the path. It fails with a [*FormatError].
func Parse(name string, data []byte) (*File, error) {
	tensors, metadata, err := parse(name, data)
	if err != nil {
		return nil, &FormatError{Path: name, Msg: err.Error()}
	}
	f := &File{path: name, tensors: tensors, metadata: metadata}
	if err := f.index(); err != nil {
		return nil, err
	}
	return f, nil
}

// foreign names the format of a file that is not a safetensors file; "" if it is unknown.
func foreign(b []byte) string {
	t := filetype.Of(b)
	switch t.ID {
	case "zip", "pickle":
		t.Hint = "convert it with safetensors.torch.save_file"
	case "safetensors", "":
		return ""
	}
	return "it is " + t.String()
}

// parse checks a whole file and returns its tensors in the order of their data.
func parse(path string, b []byte) ([]Tensor, map[string]string, error) {
	if len(b) < 8 {
		return nil, nil, fmt.Errorf("it is %d bytes long: want at least 8 for the length of the header", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxHeader {
		if what := foreign(b); what != "" {
			return nil, nil, errors.New(what)
		}
		return nil, nil, fmt.Errorf("the declared header length is %d bytes: want at most %d", n, maxHeader)
	}
	if n > uint64(len(b)-8) {
		if what := foreign(b); what != "" {
			return nil, nil, errors.New(what)
		}
		return nil, nil, fmt.Errorf("it is truncated: the declared header length is %d bytes, %d bytes follow", n, len(b)-8)
	}
	header, data := b[8:8+n], b[8+n:]
	if len(header) == 0 || header[0] != '{' {
		if what := foreign(b); what != "" {
			return nil, nil, errors.New(what)
		}
		return nil, nil, errors.New("the header does not begin with '{'")
	}
	if !utf8.Valid(header) {
		return nil, nil, errors.New("the header is not UTF-8")
	}
	h := headerParser{scanner: scanner{b: header}, path: path, data: data}
	if err := h.parse(); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if err := h.cover(); err != nil {
		return nil, nil, err
	}
	return h.tensors, h.metadata, nil
}

type headerParser struct {
	scanner
	path     string
	data     []byte
	dims     [maxDims]int // of the tensor being read
	tensors  []Tensor
	metadata map[string]string
}

func (h *headerParser) parse() error {
	err := h.object("an object", func(key []byte) error {
		if string(key) == metadataKey {
			return h.parseMetadata()
		}
		if len(h.tensors) == maxTensors {
			return h.errorf("more than %d tensors", maxTensors)
		}
		return h.parseTensor(string(key))
	})
	if err != nil {
		return err
	}
	return h.end()
}

func (h *headerParser) parseMetadata() error {
	if h.metadata != nil {
		return h.errorf("%s occurs twice", metadataKey)
	}
	h.metadata = map[string]string{}
	return h.object("an object of strings as "+metadataKey, func(key []byte) error {
		if len(h.metadata) == maxMetadata {
			return h.errorf("more than %d entries of %s", maxMetadata, metadataKey)
		}
		k := string(key)
		if _, ok := h.metadata[k]; ok {
			return h.errorf("metadata %s occurs twice", quote.Quoted(k))
		}
		v, err := h.str("a string as metadata " + quote.Quoted(k))
		if err != nil {
			return err
		}
		h.metadata[k] = string(v)
		return nil
	})
}

// entryFields are the fields of a tensor's entry; each must occur once.
var entryFields = [...]string{"dtype", "shape", "data_offsets"}

// parseTensor reads an entry such as {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}.
func (h *headerParser) parseTensor(name string) error {
	t := Tensor{Name: name, Path: h.path}
	var seen [len(entryFields)]bool
	var offsets [2]int
	err := h.object("an object", func(key []byte) (err error) {
		field := slices.Index(entryFields[:], string(key))
		if field < 0 {
			return h.errorf("unknown field %s: want dtype, shape and data_offsets", quote.Quoted(key))
		}
		if seen[field] {
			return h.errorf("%s occurs twice", entryFields[field])
		}
		seen[field] = true
		switch entryFields[field] {
		case "dtype":
			t.DType, err = h.dtype()
		case "shape":
			var n int
			n, err = h.counts("an array of dimensions", h.dims[:])
			t.Shape = slices.Clone(h.dims[:n])
		case "data_offsets":
			var n int
			n, err = h.counts("an array of two offsets", offsets[:])
			if err == nil && n < len(offsets) {
				err = h.want("two offsets")
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("tensor %s: %w", quote.Quoted(name), err)
	}
	for i, ok := range seen {
		if !ok {
			return fmt.Errorf("tensor %s: %s is missing", quote.Quoted(name), entryFields[i])
		}
	}
	size, ok := t.DType.bytesOf(t.Shape)
	if !ok {
		return fmt.Errorf("tensor %s: shape %v of %s is too large, or not a whole number of bytes", quote.Quoted(name), t.Shape, t.DType)
	}
	begin, end := offsets[0], offsets[1]
	switch {
	case begin > end:
		return fmt.Errorf("tensor %s: data_offsets [%d,%d] are out of order", quote.Quoted(name), begin, end)
	case end-begin != size:
		return fmt.Errorf("tensor %s: data_offsets [%d,%d] hold %d bytes, shape %v of %s needs %d", quote.Quoted(name), begin, end, end-begin, t.Shape, t.DType, size)
	case end > len(h.data):
		return fmt.Errorf("tensor %s: data_offsets [%d,%d] end after the data, which is %d bytes long: is the file truncated?", quote.Quoted(name), begin, end, len(h.data))
	}
	t.begin, t.Data = begin, h.data[begin:end:end]
	h.tensors = append(h.tensors, t)
	return nil
}

func (h *headerParser) dtype() (DType, error) {
	v, err := h.str("a string as dtype")
	if err != nil {
		return "", err
	}
	for i := range layout {
		if string(v) == string(layout[i].dtype) {
			return layout[i].dtype, nil
		}
	}
	return "", h.errorf("unknown dtype %s", quote.Quoted(v))
}

// counts reads an array of at most len(dst) non-negative integers and returns their number.
func (h *headerParser) counts(what string, dst []int) (n int, err error) {
	err = h.array(what, func() error {
		if n == len(dst) {
			return h.errorf("more than %d numbers", len(dst))
		}
		dst[n], err = h.count()
		n++
		return err
	})
	return n, err
}

// cover sorts the tensors by offset and checks that they cover the data section without gaps and overlaps.
func (h *headerParser) cover() error {
	slices.SortStableFunc(h.tensors, func(a, b Tensor) int {
		if a.begin != b.begin {
			return a.begin - b.begin
		}
		return len(a.Data) - len(b.Data)
	})
	end := 0
	for _, t := range h.tensors {
		switch {
		case t.begin < end:
			return fmt.Errorf("the data of tensor %s begins at %d and overlaps the data before it, which ends at %d", quote.Quoted(t.Name), t.begin, end)
		case t.begin > end:
			return fmt.Errorf("the data has a gap from %d to %d, before tensor %s", end, t.begin, quote.Quoted(t.Name))
		}
		end += len(t.Data)
	}
	if end != len(h.data) {
		return fmt.Errorf("the data section is %d bytes long, the tensors end at %d", len(h.data), end)
	}
	return nil
}
