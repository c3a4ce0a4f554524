// Package archive reads tar archives and gzipped files within limits, and knows the names of WebDataset's shards and their members.
package archive

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// Limits, far above real datasets.
const (
	MaxMemory = 4 << 30 // bytes of a set's pixels, or of gzipped shards

	// A gzipped file may unpack to MaxUnpacked bytes, plus maxRatio for each byte of the file. MNIST's images compress to a fifth;
	// a file that compresses to a thousandth is empty.
	MaxUnpacked = 192 << 20
	maxRatio    = 16
)

// ErrEmptied is wrapped by errors about files that unpack to more than compressed images do.
var ErrEmptied = errors.New("if this is intended, unpack the file with gunzip: files that are not compressed are read in place")

// Gzip reads a file's content, decompressed if it is gzipped.
type Gzip struct {
	io.Reader
	Size int64 // of the content in bytes; -1: unknown
	most int64 // limit for the content in bytes, from the size of the file
	File *os.File
}

func (m *Gzip) Close() error { return m.File.Close() }

// Promises returns an error if the content is claimed to have more bytes than the limit.
func (m *Gzip) Promises(bytes int64) error {
	if bytes > m.most {
		return fmt.Errorf("the file claims to unpack to %d bytes, the limit for its size is %d: %w", bytes, m.most, ErrEmptied)
	}
	return nil
}

func OpenGzip(path string) (*Gzip, error) {
	f, size, err := plainfile.Open(path)
	if err != nil {
		return nil, err
	}
	packed := &counted{Reader: f}
	buf := bufio.NewReaderSize(packed, 64<<10)
	if magic, err := buf.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(buf)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
		return &Gzip{Reader: &unpacked{z, packed, 0}, Size: -1, most: MaxUnpacked + maxRatio*min(size, MaxMemory), File: f}, nil
	}
	return &Gzip{Reader: buf, Size: size, most: size, File: f}, nil
}

// unpacked reads decompressed content and fails if there is far more of it than images have.
type unpacked struct {
	io.Reader
	packed *counted
	n      int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if u.n += int64(n); u.n > MaxUnpacked+maxRatio*u.packed.n {
		return 0, fmt.Errorf("the first %d bytes unpack to over %d: %w", u.packed.n, u.n, ErrEmptied)
	}
	return n, err
}

// ReadExactly reads n bytes. Its buffer grows with the data that arrives, because n comes from an untrusted file.
func ReadExactly(r io.Reader, n int64) ([]byte, error) {
	data := make([]byte, 0, min(n, 1<<20))
	for int64(len(data)) < n {
		if len(data) == cap(data) {
			grown := make([]byte, len(data), min(n, 2*int64(cap(data))))
			copy(grown, data)
			data = grown
		}
		k, err := io.ReadFull(r, data[len(data):cap(data)])
		data = data[:len(data)+k]
		if err != nil {
			return data, NoEOF(err)
		}
	}
	return data, nil
}

// NoEOF turns io.EOF into io.ErrUnexpectedEOF, for reads that should have had more.
func NoEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
