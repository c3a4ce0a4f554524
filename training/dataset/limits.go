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

// Limits for datasets. All are far above real datasets.
const (
	maxMemory     = 4 << 30   // bytes of a set's pixels, or of gzipped shards
	maxCache      = 256 << 20 // bytes of decoded pixels that are kept; images of larger sets are decoded again in every epoch
	maxResolution = 4096      // pixels
	maxImages     = 1 << 24   // images in an IDX file; the largest known, MNIST8M, has 8.1 million
	maxRecords    = 1 << 17   // records of CIFAR, which has 60,000 in all

	// A gzipped file may unpack to maxUnpacked bytes, plus maxRatio for each byte of the file. MNIST's images compress to a fifth;
	// a file that compresses to a thousandth is empty.
	maxUnpacked = 192 << 20
	maxRatio    = 16
)

// errEmptied is wrapped by errors about files that unpack to more than compressed images do.
var errEmptied = errors.New("if this is intended, unpack the file with gunzip: files that are not compressed are read in place")

// maybeGzip reads a file's content, decompressed if it is gzipped.
type maybeGzip struct {
	io.Reader
	size int64 // of the content in bytes; -1: unknown
	most int64 // limit for the content in bytes, from the size of the file
	f    *os.File
}

func (m *maybeGzip) Close() error { return m.f.Close() }

// promises returns an error if the content is claimed to have more bytes than the limit.
func (m *maybeGzip) promises(bytes int64) error {
	if bytes > m.most {
		return fmt.Errorf("the file claims to unpack to %d bytes, the limit for its size is %d: %w", bytes, m.most, errEmptied)
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

// unpacked reads decompressed content and fails if there is far more of it than images have.
type unpacked struct {
	io.Reader
	packed *counted
	n      int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if u.n += int64(n); u.n > maxUnpacked+maxRatio*u.packed.n {
		return 0, fmt.Errorf("the first %d bytes unpack to over %d: %w", u.packed.n, u.n, errEmptied)
	}
	return n, err
}
