package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"unsafe"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// fileTypes are the safetensors names of the dtypes.
var fileTypes = [...]safetensors.DType{
	Float32: safetensors.F32, Float64: safetensors.F64, Float16: safetensors.F16, BFloat16: safetensors.BF16,
	Int64: safetensors.I64, Int32: safetensors.I32, Uint8: safetensors.U8, Bool: safetensors.Bool,
	Float8E4M3: safetensors.F8E4M3, Float8E5M2: safetensors.F8E5M2,
}

// ErrInUse is wrapped by the error of [Weights.Close] while tensors still use the file's memory.
var ErrInUse = errors.New("still in use")

// Weights are the tensors of a memory-mapped safetensors file. On the CPU they are views of the map: loading does not copy,
// and pages are read on first use. Changing a view in place changes neither the file nor other
// processes. It may be used by several goroutines.
type Weights struct {
	file *safetensors.File

	mu   sync.Mutex
	live uses
}

// OpenWeights maps a safetensors file, an index of shards or a directory; see [safetensors.Open]. A file with an
// unsupported element type is refused. libtorch is needed only for the tensors, not for their names, shapes and types.
func OpenWeights(path string) (*Weights, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	if err := checkFile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Weights{file: f}, nil
}

// File returns the file, for its names, types, shapes and metadata. Weights still owns it: do not close it.
func (w *Weights) File() *safetensors.File { return w.file }

// Get returns the tensor of that name, owned by s, in the file's element type. On a CPU scope it is a view of the map, or
// a copy if it is unaligned in the file; on a GPU it is a copy. An unknown name is an error.
func (w *Weights) Get(s *Scope, name string) (*Tensor, error) {
	w.mu.Lock()
	v, ok := w.file.Tensor(name)
	closed := w.live.closed
	w.mu.Unlock()
	if closed {
		return nil, w.errClosed()
	}
	if !ok {
		return nil, fmt.Errorf("%s: there is no tensor %s", quote.Path(w.file.Path()), quote.Quoted(name))
	}
	var t *Tensor
	if err := Catch(func() { t = w.load(s, v) }); err != nil {
		return nil, fmt.Errorf("%s: tensor %s: %w", quote.Path(w.file.Path()), quote.Quoted(name), err)
	}
	return t, nil
}

// Info returns the shape and element type of the tensor with that name, and whether there is one.
func (w *Weights) Info(name string) (shape []int, d DType, ok bool) {
	v, ok := w.file.Tensor(name)
	if !ok {
		return nil, 0, false
	}
	d, _ = dtypeOfFile(v.DType) // checked when the file was opened
	return v.Shape, d, true
}

// Names yields the names of all tensors in the file's order.
func (w *Weights) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for v := range w.file.Tensors() {
			if !yield(v.Name) {
				return
			}
		}
	}
}

// Release tells the system that the memory of the tensor with that name will not be needed soon; see
// [safetensors.File.Release]. Changes made in place through views are lost.
func (w *Weights) Release(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.live.closed {
		w.file.Release(name)
	}
}

// All yields every tensor by name, in the file's order; see [Weights.Get]. Each tensor is made when the loop reaches
// it, owned by s; the loop may free it. It panics like an operator if the file was closed or the device is out of memory.
func (w *Weights) All(s *Scope) iter.Seq2[string, *Tensor] {
	return func(yield func(string, *Tensor) bool) {
		w.mu.Lock()
		tensors, closed := w.file.Tensors(), w.live.closed
		w.mu.Unlock()
		if closed {
			panic(w.errClosed())
		}
		for v := range tensors {
			if !yield(v.Name, w.load(s, v)) {
				return
			}
		}
	}
}

// Close unmaps the file. While tensors, or views of them saved by autograd, still use its memory, it does nothing and
// returns an error that wraps [ErrInUse]: close their scopes first. Closing twice does nothing.
func (w *Weights) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live.closed {
		return nil
	}
	if n := w.live.count(); n > 0 {
		return fmt.Errorf("close %s: %s: %w: close their scopes first", quote.Path(w.file.Path()), plural.N(n, "tensor"), ErrInUse)
	}
	w.live.close()
	return w.file.Close()
}

func (w *Weights) errClosed() *Error {
	return &Error{Op: "weights", Msg: w.file.Path() + " was closed", Err: ErrFreed}
}

func (w *Weights) load(s *Scope, v safetensors.Tensor) *Tensor {
	mustOpen("weights")
	if s.device == CPU {
		return w.view(s, v)
	}
	return s.NoGradTidy(func(c *Scope) *Tensor { return w.view(c, v).ToDevice(c, s.device) })
}

// view makes a CPU tensor over the map, or a copy where the map cannot be used.
func (w *Weights) view(s *Scope, v safetensors.Tensor) *Tensor {
	w.mu.Lock() // so that Close waits until the tensor counts, or the copy is made
	defer w.mu.Unlock()
	if w.live.closed {
		panic(w.errClosed())
	}
	if len(v.Data) == 0 || !v.Aligned() {
		return fromFile(s, v)
	}
	d, _ := dtypeOfFile(v.DType)
	sizes, _ := sizesOf("weights", v.Shape)
	var at *C.int64_t
	if len(sizes) > 0 {
		at = &sizes[0]
	}
	var h C.ct_tensor
	e := C.ct_tensor_over_host(unsafe.Pointer(unsafe.SliceData(v.Data)), C.int64_t(len(v.Data)), at, C.int32_t(len(sizes)), C.int32_t(d.code()), w.live.counter(), &h)
	if e != nil {
		panic(take(e, "weights"))
	}
	return newTensor(s, h, "weights")
}

// FromFile yields copies of a file's tensors by name, on the scope's device and owned by s, in the file's order: for files
// that [safetensors.Parse] has read from memory. [OpenWeights] reads files on disk without copying. A tensor is made when
// its turn comes; a loop that is done with one may free it. Element types without a counterpart here are an error.
func FromFile(s *Scope, f *safetensors.File) (iter.Seq2[string, *Tensor], error) {
	if err := checkFile(f); err != nil {
		return nil, err
	}
	return func(yield func(string, *Tensor) bool) {
		for v := range f.Tensors() {
			if !yield(v.Name, fromFile(s, v)) {
				return
			}
		}
	}, nil
}

func fromFile(s *Scope, v safetensors.Tensor) *Tensor {
	d, _ := dtypeOfFile(v.DType)
	return FromBytes(s, v.Data, d, v.Shape...)
}

func dtypeOfFile(d safetensors.DType) (DType, bool) {
	i := slices.Index(fileTypes[:], d)
	return DType(i), i >= 0
}

// checkFile refuses what cannot become a tensor here: other element types, and bool elements that are neither 0 nor 1,
// which C++ must never see.
func checkFile(f *safetensors.File) error {
	for v := range f.Tensors() {
		d, ok := dtypeOfFile(v.DType)
		if !ok {
			return fmt.Errorf("%s: tensor %s has elements of type %s: want one of %v, convert the file first", quote.Path(v.Path), quote.Quoted(v.Name), v.DType, fileTypes)
		}
		if d != Bool {
			continue
		}
		if i := slices.IndexFunc(v.Data, func(b byte) bool { return b > 1 }); i >= 0 {
			return &safetensors.FormatError{Path: v.Path, Msg: fmt.Sprintf("tensor %s of type BOOL holds the byte %d: want 0 or 1", quote.Quoted(v.Name), v.Data[i])}
		}
	}
	return nil
}

// SaveOptions are metadata of a file, and whether it may replace one that exists.
type SaveOptions = safetensors.Options

// SaveSafetensors writes tensors to a safetensors file atomically; see [safetensors.Write]. They may be on any device and
// are copied to the host one at a time; all have to stay alive until it returns. Gradients are not saved. Without
// Overwrite, a file that exists is an error that wraps fs.ErrExist. Python's libraries take the file as theirs when the
// metadata say "format": "pt".
func SaveSafetensors(path string, tensors iter.Seq2[string, *Tensor], o SaveOptions) error {
	list, err := sources(tensors)
	if err != nil {
		return fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	return safetensors.Write(path, list, o)
}

// SaveSharded is SaveSafetensors into several files of at most maxBytes and their index, whose path it returns; see
// [safetensors.WriteSharded].
func SaveSharded(path string, tensors iter.Seq2[string, *Tensor], maxBytes int, o SaveOptions) (string, error) {
	list, err := sources(tensors)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	return safetensors.WriteSharded(path, list, maxBytes, o)
}

// sources describes tensors to the writer. All share one buffer, as large as the largest of them.
func sources(tensors iter.Seq2[string, *Tensor]) (list []safetensors.Source, err error) {
	var buffer []byte
	err = Catch(func() {
		for name, t := range tensors {
			if t.Freed() {
				panic(&Error{Op: "save", Msg: fmt.Sprintf("the tensor %s is nil or was freed; its owner has to stay open until it is written", quote.Text(name)), Err: ErrFreed})
			}
			in := t.info("save")
			n := int(in.words[3] * in.words[4])
			list = append(list, safetensors.Source{
				Name: name, DType: fileTypes[in.dtype()], Shape: in.shape(),
				Data: func() ([]byte, error) {
					if n == 0 {
						return nil, nil
					}
					if cap(buffer) < n {
						buffer = make([]byte, n)
					}
					err := Catch(func() {
						in := t.info("save") // its layout may have changed, and it may have been freed
						t.copyToHost(unsafe.Pointer(unsafe.SliceData(buffer[:n])), n, &in)
					})
					return buffer[:n], err
				},
			})
		}
	})
	return list, err
}
