package dataset

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

// Limits of what is read. All are far above real sets.
const (
	maxMemory     = 4 << 30   // bytes of a set's pixels, or of gzipped shards
	maxCache      = 256 << 20 // bytes of decoded pixels that are kept; larger sets are decoded anew in every epoch
	maxResolution = 4096
	maxImages     = 1 << 24 // of an IDX file; the largest known, of MNIST's digits deformed, has 8.1 million
	maxRecords    = 1 << 17 // of CIFAR's binary version, which has 60,000 in all

	// What a gzipped file may unpack to: so many bytes, and so many more for each byte of it. MNIST's images shrink to a fifth;
	// what shrinks to a thousandth is empty.
	maxUnpacked = 192 << 20
	maxRatio    = 16
)

// errEmptied is wrapped by the errors about files that unpack to more than images do.
var errEmptied = errors.New("unpack it with gunzip, if it is meant to: plain files are read in place")

// maybeGzip is a file's content, unpacked if it is gzipped.
type maybeGzip struct {
	io.Reader
	size int64 // the number of bytes of the content; -1: unknown
	most int64 // that it can have, by the size of the file
	f    *os.File
}

func (m *maybeGzip) Close() error { return m.f.Close() }

// promises refuses a content that is said to have so many bytes and cannot have them.
func (m *maybeGzip) promises(bytes int64) error {
	if bytes > m.most {
		return fmt.Errorf("it is said to unpack to %d bytes, and from a file of its size at most %d are read: %w", bytes, m.most, errEmptied)
	}
	return nil
}

func openMaybeGzip(path string) (*maybeGzip, error) {
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
		return &maybeGzip{Reader: &unpacked{z, packed, 0}, size: -1, most: maxUnpacked + maxRatio*min(size, maxMemory), f: f}, nil
	}
	return &maybeGzip{Reader: buf, size: size, most: size, f: f}, nil
}

// unpacked ends where a file unpacks to far more than images do.
type unpacked struct {
	io.Reader
	packed *counted
	n      int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if u.n += int64(n); u.n > maxUnpacked+maxRatio*u.packed.n {
		return 0, fmt.Errorf("its first %d bytes unpack to over %d: %w", u.packed.n, u.n, errEmptied)
	}
	return n, err
}
