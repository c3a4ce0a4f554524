package weights

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
)

// Tensors are the tensors of a file under the names that it gives them. They are views of the mapped file.
type Tensors struct{ file }

// OpenTensors opens a file of weights of any content: of safetensors, an index of shards, or, where its name says so, of torch.save, in
// which nothing but tensors is read.
func OpenTensors(path string) (*Tensors, error) {
	w, err := openWeights(path)
	if err != nil {
		return nil, err
	}
	return &Tensors{w}, nil
}

// Metadata returns the free-form strings of a safetensors file, or those that a file of torch.save has beside its tensors.
func (t *Tensors) Metadata() map[string]string {
	f := t.file
	if s, ok := f.(*scales); ok {
		f = s.file
	}
	if a, ok := f.(*archive); ok {
		return a.strings
	}
	return metadataOf(t.file)
}

// metadataOf returns the free-form strings of a safetensors file; nil for other files.
func metadataOf(f file) map[string]string {
	if s, ok := f.(*scales); ok {
		f = s.file
	}
	if w, ok := f.(*torch.Weights); ok {
		return w.File().Metadata()
	}
	return nil
}

// CompVis returns what single files call the tensors of a U-Net or a ControlNet, without a prefix, that today has these names.
func CompVis(ours iter.Seq[string]) func(name string) (theirs string, ok bool) {
	all := map[string]bool{}
	for name := range ours {
		all[name] = true
	}
	pairs := ourForm(func(name string) bool { return all[name] }).table().theirs
	return func(name string) (string, bool) { return rename(pairs, name) }
}
