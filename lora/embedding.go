package lora

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Embedding is a textual inversion embedding bundled in an adapter's file, as bundle_emb.NAME.KEY: a token that the adapter was
// trained with (OneTrainer, A1111).
type Embedding struct {
	Name string   // the word in prompts
	Keys []string // sorted: clip_l and clip_g, emb_params, or string_to_param.*

	file *File
}

const bundled = "bundle_emb."

// Get returns the vectors of a key, [n, features], as a view of the file.
func (e Embedding) Get(s *torch.Scope, key string) (*torch.Tensor, error) {
	return e.file.src.Get(s, bundled+e.Name+"."+key)
}

// Inversion reads the embedding, for prompts that contain its word.
func (e Embedding) Inversion() (sd.Inversion, error) {
	in, err := sd.ReadInversion(bundle{e}, e.Name)
	in.Word, in.Name = e.Name, e.Name
	if err != nil {
		return in, fmt.Errorf("%s: the embedding %s in the adapter's file: %w", quote.Path(e.file.Path), quote.Quoted(e.Name), err)
	}
	return in, nil
}

// Embeddings returns the embeddings bundled in the adapter's file.
func (a *Adapter) Embeddings() []Embedding {
	if a.file == nil {
		return nil
	}
	return a.file.Embeddings
}

// Inversions reads the embeddings bundled in the adapter's file. A prompt uses those whose words it contains:
//
//	p.Adapters = style.At(1)
//	p.Inversions, err = style.Inversions()
func (a *Adapter) Inversions() (all []sd.Inversion, err error) {
	for _, e := range a.Embeddings() {
		in, err := e.Inversion()
		if err != nil {
			return nil, err
		}
		all = append(all, in)
	}
	return all, nil
}

// bundle is a source of an embedding's tensors, with the names of a separate embedding file.
type bundle struct{ Embedding }

var _ nn.Source = bundle{}

// param is the prefix of the dictionary keys in A1111's files.
const param = "string_to_param."

// key is the suffix of a tensor's name in the adapter's file.
func (b bundle) key(name string) string {
	if !slices.Contains(b.Keys, name) && slices.Contains(b.Keys, param+name) {
		return param + name
	}
	return name
}

// Names implements nn.Source.
func (b bundle) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, key := range b.Keys {
			if !yield(strings.TrimPrefix(key, param)) {
				return
			}
		}
	}
}

// Info implements nn.Source.
func (b bundle) Info(name string) ([]int, torch.DType, bool) {
	return b.file.src.Info(bundled + b.Name + "." + b.key(name))
}

// Get implements nn.Source.
func (b bundle) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	return b.Embedding.Get(s, b.key(name))
}

// Release implements nn.Source.
func (b bundle) Release(name string) { b.file.src.Release(bundled + b.Name + "." + b.key(name)) }
