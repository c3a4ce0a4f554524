package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
)

// Mapped is a memory-mapped file whose bytes can be viewed as tensors without a copy, for formats that store raw elements. [OpenWeights] does the same for safetensors files. Changing a view in place changes neither the file nor other
// processes. It may be used by several goroutines.
type Mapped struct {
	path string

	mu    sync.Mutex
	bytes []byte
	live  uses
}

// OpenMapped maps a regular file that is not empty; it does not need libtorch. The file must not be truncated while it is open, because
// accessing the lost pages kills the process.
func OpenMapped(path string) (_ *Mapped, err error) {
	st, err := os.Stat(path) // before opening, which waits when the path is a named pipe
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return nil, fmt.Errorf("%s: want a regular file that is not empty", quote.Path(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return nil, fmt.Errorf("%s: want a regular file that is not empty", quote.Path(path))
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, &fs.PathError{Op: "mmap", Path: path, Err: err}
	}
	return &Mapped{path: path, bytes: m}, nil
}

// Path returns the path that was opened.
func (m *Mapped) Path() string { return m.path }

// Bytes returns the file's bytes. They become invalid with Close: accessing them then kills the process.
func (m *Mapped) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// Tensor returns the tensor of that shape whose elements, little-endian and in the order of their indices, begin at an offset, owned
// by s. On a CPU scope it is a view of the map, or a copy if the offset is not a multiple of the element size; on a GPU it is a copy.
// A range outside the file is an error, and so is a bool element that is neither 0 nor 1.
func (m *Mapped) Tensor(s *Scope, offset int, d DType, shape ...int) (*Tensor, error) {
	var t *Tensor
	err := Catch(func() {
		if s.device == CPU {
			t = m.view(s, offset, d, shape)
		} else {
			t = s.NoGradTidy(func(c *Scope) *Tensor { return m.view(c, offset, d, shape).ToDevice(c, s.device) })
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(m.path), err)
	}
	return t, nil
}

func (m *Mapped) view(s *Scope, offset int, d DType, shape []int) *Tensor {
	const op = "mapped"
	mustOpen(op)
	sizes, count := sizesOf(op, shape)
	m.mu.Lock() // so that Close waits until the tensor is counted or copied
	defer m.mu.Unlock()
	if m.live.closed {
		panic(&Error{Op: op, Msg: m.path + " was closed", Err: ErrFreed})
	}
	if offset < 0 || offset > len(m.bytes) || count > (len(m.bytes)-offset)/d.Size() {
		panic(&Error{Op: op, Msg: fmt.Sprintf("%s of %s at offset %d: outside the file of %d bytes", plural.N(count, "element"), d, offset, len(m.bytes))})
	}
	data := m.bytes[offset : offset+count*d.Size()]
	if d == Bool {
		if i := slices.IndexFunc(data, func(b byte) bool { return b > 1 }); i >= 0 {
			panic(&Error{Op: op, Msg: fmt.Sprintf("a bool is stored as byte %d: want 0 or 1", data[i])})
		}
	}
	if count == 0 || offset%d.Size() != 0 { // the map itself is aligned
		return FromBytes(s, data, d, shape...)
	}
	var at *C.int64_t
	if len(sizes) > 0 {
		at = &sizes[0]
	}
	var h C.ct_tensor
	e := C.ct_tensor_over_host(unsafe.Pointer(unsafe.SliceData(data)), C.int64_t(len(data)), at, C.int32_t(len(sizes)), C.int32_t(d.code()), m.live.counter(), &h)
	if e != nil {
		panic(take(e, op))
	}
	return newTensor(s, h, op)
}

// Release tells the system that n bytes at an offset will not be needed soon; see [Weights.Release].
func (m *Mapped) Release(offset, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	page := os.Getpagesize()
	if m.live.closed || offset < 0 || n < 0 || offset > len(m.bytes)-n {
		return
	}
	from, to := (offset+page-1)/page*page, (offset+n)/page*page // the whole pages
	if from < to {
		_ = unix.Madvise(m.bytes[from:to], unix.MADV_DONTNEED) // a hint: if it fails, the pages only stay longer
	}
}

// Close unmaps the file. While tensors, or views of them saved by autograd, still use its memory, it does nothing and returns an error
// that wraps [ErrInUse]. Closing twice does nothing.
func (m *Mapped) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live.closed {
		return nil
	}
	if n := m.live.count(); n > 0 {
		return fmt.Errorf("close %s: %s: %w: close their scopes first", quote.Path(m.path), plural.N(n, "tensor"), ErrInUse)
	}
	m.live.close()
	b := m.bytes
	m.bytes = nil
	if err := unix.Munmap(b); err != nil {
		return &fs.PathError{Op: "munmap", Path: m.path, Err: err}
	}
	return nil
}
