package weights

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/component"
	"github.com/onestep-go/onestep/torch/saved"
)

// Tensors are the tensors of a file under their original names. They are views of the mapped file.
type Tensors struct{ file }

// OpenTensors opens any file of weights: safetensors, an index of shards, or, by its extension, a file of torch.save, from which only
// tensors are read.
func OpenTensors(path string) (*Tensors, error) {
	w, err := openWeights(path)
	if err != nil {
		return nil, err
	}
	return &Tensors{w}, nil
}

// Metadata returns the metadata of a safetensors file, or the strings next to the tensors in a file of torch.save.
func (t *Tensors) Metadata() map[string]string {
	f := t.file
	if s, ok := f.(*scales); ok {
		f = s.file
	}
	if a, ok := f.(*saved.File); ok {
		return a.Strings()
	}
	return metadataOf(t.file)
}

// metadataOf returns the metadata of a safetensors file; nil for other files.
func metadataOf(f file) map[string]string {
	if s, ok := f.(*scales); ok {
		f = s.file
	}
	if w, ok := f.(*torch.Weights); ok {
		return w.File().Metadata()
	}
	return nil
}

// CompVis returns a function from diffusers' tensor names of a U-Net or a ControlNet, of which ours are all, to the names in single files,
// without prefix.
func CompVis(ours iter.Seq[string]) func(name string) (theirs string, ok bool) {
	all := map[string]bool{}
	for name := range ours {
		all[name] = true
	}
	pairs := ourForm(func(name string) bool { return all[name] }).table().theirs
	return func(name string) (string, bool) { return rename(pairs, name) }
}

// Floats returns the elements of a tensor in row-major order. Libtorch is only needed if the tensor is not contiguous in the file or has a
// quantization scale.
func (t *Tensors) Floats(name string) ([]float64, error) {
	if data, d, ok := elements(t.file, name); ok {
		out := make([]float64, len(data)/d.Size())
		for i := range out {
			out[i] = d.Element(data[i*d.Size():])
		}
		return out, nil
	}
	var out []float64
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		w, err := t.Get(s, name)
		if err == nil {
			out = torch.ToSlice[float64](w.To(s, torch.Float64))
		}
		return err
	})
	return out, err
}

// elements returns the bytes and data type of a tensor that is contiguous in the file.
func elements(f file, name string) ([]byte, torch.DType, bool) {
	switch f := f.(type) {
	case *scales:
		if f.by[name] == "" {
			return elements(f.file, name)
		}
	case *component.Shards:
		if in := f.File(name); in != nil {
			return elements(in, name)
		}
	case *saved.File:
		return f.Elements(name)
	case *torch.Weights:
		if v, ok := f.File().Tensor(name); ok {
			_, d, _ := f.Info(name)
			return v.Data, d, true
		}
	}
	return nil, 0, false
}
