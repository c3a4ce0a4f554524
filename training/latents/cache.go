package latents

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// array is a tensor in host memory.
type array struct {
	name  string
	dtype torch.DType
	shape []int
	data  []byte // nil in an expected array
}

// bytes is its size.
func (a array) bytes() int {
	n := a.dtype.Size()
	for _, d := range a.shape {
		n *= d
	}
	return n
}

// tensor returns it as [1, ...] on the scope's device.
func (a array) tensor(s *torch.Scope) *torch.Tensor {
	return torch.FromBytes(s, a.data, a.dtype, append([]int{1}, a.shape...)...)
}

// entry is what is stored of an image or a caption: its arrays, in the order of their names.
type entry []array

// bytes is the size of the arrays.
func (e entry) bytes() (n int) {
	for _, a := range e {
		n += a.bytes()
	}
	return n
}

// get returns the array with that name; nil: there is none.
func (e entry) get(name string) *array {
	if i := slices.IndexFunc(e, func(a array) bool { return a.name == name }); i >= 0 {
		return &e[i]
	}
	return nil
}

// key identifies an entry by all that its values depend on: text says what, and sum is its SHA-256.
type key struct {
	text string
	sum  [sha256.Size]byte
}

func newKey(format string, args ...any) key {
	text := fmt.Sprintf(format, args...) //quote: a key, not for printing
	return key{text, sha256.Sum256([]byte(text))}
}

// cache stores entries as files, each in a file of its own that is named by its key. So runs that share a directory need no lock: a file is
// complete from the moment that it has its name, files of one name are equal, and a damaged one costs one entry. Each file has a checksum.
// Files are read, not mapped, since a mapped file that somebody truncates kills the process; at most a few batches are in memory.
type cache struct {
	dir string
}

// format is the version of the files. Change it when the values of an entry change for another reason than those in its key.
const format = "1"

// The metadata of an entry's file.
const (
	formatKey   = "onestep.latents"
	madeFromKey = "onestep.made_from"
	checksumKey = "onestep.crc32c"
)

// open makes the directory and removes what killed runs left in it.
func (c *cache) open() error {
	if err := os.MkdirAll(c.dir, 0o777); err != nil {
		return quote.Error(err)
	}
	dirs, err := os.ReadDir(c.dir)
	if err != nil {
		return quote.Error(err)
	}
	for _, d := range dirs {
		if d.IsDir() && len(d.Name()) == 2 {
			atomicfile.Sweep(filepath.Join(c.dir, d.Name()))
		}
	}
	return nil
}

// path is an entry's file. 256 directories keep each small.
func (c *cache) path(k key) string {
	name := hex.EncodeToString(k.sum[:])
	return filepath.Join(c.dir, name[:2], name[2:]+".safetensors")
}

// has reports whether there is a file of that entry, without reading it.
func (c *cache) has(k key) bool {
	_, err := os.Stat(c.path(k))
	return err == nil
}

// CacheError is an error of the cache's directory, such as of its disk.
type CacheError struct{ Err error }

// Error returns the message.
func (e *CacheError) Error() string { return "cache: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CacheError) Unwrap() error { return e.Err }

// damagedError is a file of the cache that does not hold what was written.
type damagedError struct {
	path string
	why  string
}

func (e *damagedError) Error() string { return quote.Path(e.path) + ": damaged: " + e.why }

// remove removes the file, so that it is not taken for an entry that another run has made.
func (e *damagedError) remove() error {
	if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w, and it cannot be removed: %w", e, quote.Error(err))
	}
	return nil
}

// read returns an entry with the names, types and shapes that are wanted. A missing one is fs.ErrNotExist, and one that is not what was
// written a *damagedError.
func (c *cache) read(k key, want entry) (entry, error) {
	path := c.path(k)
	damaged := func(format string, args ...any) error { return &damagedError{path, fmt.Sprintf(format, args...)} }
	const most = 64 << 10 // bytes of a header, far more than one has
	data, err := plainfile.Read(path, int64(want.bytes()+most))
	if errors.Is(err, plainfile.ErrTooLarge) || errors.Is(err, plainfile.ErrNotRegular) {
		return nil, damaged("it is not a file of %d bytes and a header", want.bytes())
	}
	if err != nil {
		return nil, err
	}
	f, err := safetensors.Parse(path, data)
	if err != nil {
		var bad *safetensors.FormatError
		if errors.As(err, &bad) {
			return nil, damaged("%s", bad.Msg)
		}
		return nil, err
	}
	about := f.Metadata()
	if about[formatKey] != format || about[madeFromKey] != k.text {
		return nil, damaged("it was made from something else than its name says")
	}
	got := make(entry, 0, len(want))
	sum := crc32.New(castagnoli)
	for _, w := range want {
		t, ok := f.Tensor(w.name)
		if !ok || t.DType != fileType(w.dtype) || !slices.Equal(t.Shape, w.shape) {
			return nil, damaged("it does not have a tensor %s of %s%v", w.name, w.dtype, w.shape)
		}
		_, _ = sum.Write(t.Data) // never fails
		got = append(got, array{w.name, w.dtype, w.shape, t.Data})
	}
	if f.Len() != len(want) || about[checksumKey] != checksum(sum.Sum32()) {
		return nil, damaged("its checksum does not match")
	}
	return got, nil
}

// write stores an entry. A file of that name is replaced: it is equal, or damaged.
func (c *cache) write(k key, e entry) error {
	path := c.path(k)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return quote.Error(err)
	}
	sum := crc32.New(castagnoli)
	var tensors []safetensors.Source
	for _, a := range e {
		_, _ = sum.Write(a.data) // never fails
		tensors = append(tensors, safetensors.Source{Name: a.name, DType: fileType(a.dtype), Shape: a.shape, Data: safetensors.Bytes(a.data)})
	}
	return safetensors.Write(path, tensors, safetensors.Options{
		Overwrite: true, Metadata: map[string]string{formatKey: format, madeFromKey: k.text, checksumKey: checksum(sum.Sum32())},
	})
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(sum uint32) string { return fmt.Sprintf("%08x", sum) }

// fileType is the name of an element type in files.
func fileType(d torch.DType) safetensors.DType {
	switch d {
	case torch.Float16:
		return safetensors.F16
	case torch.BFloat16:
		return safetensors.BF16
	}
	return safetensors.F32
}

// full reports whether an error says that a disk or a quota has no room left.
func full(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// room returns an error if files of that many bytes in all do not fit on the disk.
func (c *cache) room(bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil || st.Bsize <= 0 || st.Blocks == 0 {
		return nil // unknown: writing will tell
	}
	if free := int64(min(st.Bavail, 1<<50)) * int64(st.Bsize); bytes > free {
		return fmt.Errorf("%s: %w: the latents and text features still to be made take %s and %s are free",
			quote.Path(c.dir), unix.ENOSPC, gigabytes(bytes), gigabytes(free))
	}
	return nil
}

func gigabytes(n int64) string { return strconv.FormatFloat(float64(n)/1e9, 'g', 3, 64) + " GB" }

// missing reports whether an error says that an entry has no usable file.
func missing(err error) bool {
	var bad *damagedError
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &bad)
}
