package torch

import (
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/torch/safetensors"
)

var fileTypes = map[safetensors.DType]DType{
	safetensors.F32: Float32, safetensors.F64: Float64, safetensors.F16: Float16, safetensors.BF16: BFloat16,
	safetensors.I64: Int64, safetensors.I32: Int32, safetensors.U8: Uint8, safetensors.Bool: Bool,
}

func fileType(d DType) safetensors.DType {
	for name, t := range fileTypes {
		if t == d {
			return name
		}
	}
	panic(&Error{Op: "safetensors", Msg: fmt.Sprintf("no file type for %s", d)})
}

// FromFile yields a file's tensors by name, on the scope's device and owned by s, in the file's order. A tensor is made
// when its turn comes; consumers that copy it may free it at once. Element types without a counterpart here are an error.
func FromFile(s *Scope, f *safetensors.File) (iter.Seq2[string, *Tensor], error) {
	for t := range f.Tensors() {
		if _, ok := fileTypes[t.DType]; !ok {
			return nil, fmt.Errorf("%s: tensor %q has element type %s, which is not supported: convert the file to F32, F16 or BF16", f.Path(), t.Name, t.DType)
		}
	}
	return func(yield func(string, *Tensor) bool) {
		for t := range f.Tensors() {
			if !yield(t.Name, FromBytes(s, t.Data, fileTypes[t.DType], t.Shape...)) {
				return
			}
		}
	}, nil
}

// SaveSafetensors writes tensors to a safetensors file atomically, one at a time through the host. Without overwrite a
// file that exists is an error that wraps fs.ErrExist.
func SaveSafetensors(path string, tensors iter.Seq2[string, *Tensor], metadata map[string]string, overwrite bool) error {
	var list []safetensors.Source
	err := Catch(func() {
		for name, t := range tensors {
			list = append(list, safetensors.Source{Name: name, DType: fileType(t.DType()), Shape: t.Shape(), Data: func() (b []byte, err error) {
				err = Catch(func() { b = t.Bytes() })
				return b, err
			}})
		}
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return safetensors.Write(path, list, safetensors.Options{Metadata: metadata, Overwrite: overwrite})
}
