package lora

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// File is an open adapter file. It has to stay open while adapters loaded from it are in use.
type File struct {
	Path     string // the path passed to Open
	Tensors  string // the file with the tensors: Path, or a file in that directory
	Metadata map[string]string
	Modules  []*Module // in the file's order
	// Embeddings are the bundled textual inversion embeddings. They are not part of the adapter.
	Embeddings []Embedding

	src    *weights.Tensors
	stamp  stamp    // of the files before they were read
	lone   []string // names of alphas without factors
	others []string // names of tensors for text encoders that no supported model has
}

// Open opens an adapter: a safetensors file, a file of torch.save, or a directory as peft or diffusers write it. Values are not read yet.
// Unknown names, missing factors, invalid shapes and unsupported adapter types are errors.
func Open(path string) (_ *File, err error) {
	where, folder, err := fileOf(path)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(where); err != nil {
		return nil, err
	} else if st.Size() > maxSize {
		return nil, fmt.Errorf("%s: want an adapter file of at most %d GiB, got %.1f GiB", quote.Path(path), maxSize>>30, float64(st.Size())/(1<<30))
	}
	before := stampOf(path)
	src, err := weights.OpenTensors(where)
	if err != nil {
		return nil, err
	}
	f := &File{Path: path, Tensors: where, Metadata: src.Metadata(), src: src, stamp: before}
	defer func() {
		if err != nil {
			err = errors.Join(err, src.Close())
		}
	}()
	if weights.IsInversion(src) {
		return nil, fmt.Errorf("%s: it is a textual inversion embedding, which adds a word to prompts, and not an adapter", quote.Path(path))
	}
	c, err := f.configs(folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if err := f.group(); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if work := c.size() * len(f.Modules); work > maxWork {
		return nil, fmt.Errorf("%s: alpha_pattern and rank_pattern are too complex: want simpler regular expressions for %s", quote.Path(path), plural.N(len(f.Modules), "module"))
	}
	var wrong []string
	for _, m := range f.Modules {
		if err := f.complete(m, c); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", quote.Text(m.Name), err))
		}
	}
	if wrong != nil {
		return nil, fmt.Errorf("%s: %s", quote.Path(path), list("unusable module", "", wrong))
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.src.Close() }

// group collects the tensors of each module.
func (f *File) group() error {
	type id struct{ part, path string }
	by := map[id]*Module{}
	var strange, refused []string
	for name := range f.src.Names() {
		if f.extra(name) {
			continue
		}
		k, ok := parse(name)
		switch {
		case !ok:
			strange = append(strange, quote.Text(name))
			continue
		case k.role == "":
			refused = append(refused, fmt.Sprintf("%s (%s)", quote.Text(name), k.what))
			continue
		}
		at := id{k.part, k.path}
		m := by[at]
		if m == nil {
			m = &Module{Name: k.stem, key: k, tensors: map[role]string{}}
			by[at] = m
			f.Modules = append(f.Modules, m)
		}
		if other, ok := m.tensors[k.role]; ok {
			refused = append(refused, fmt.Sprintf("%s (the same as %s)", quote.Text(name), quote.Text(other)))
		}
		if k.role != alpha && k.role != magnitude {
			m.key, m.Layout = k, k.layout
		}
		m.tensors[k.role] = name
	}
	f.orphans()
	switch {
	case len(f.Modules) == 0 && len(refused) == 0:
		return f.strangers(strange)
	case refused != nil:
		return errors.New(list("tensor", " of unsupported adapter types", refused))
	case strange != nil:
		return errors.New(list("tensor", " not part of an adapter", strange))
	}
	return nil
}

// list returns the number of names with their noun, and the first few names. rest follows the noun.
func list(noun, rest string, names []string) string {
	const most = 8
	shown := names[:min(len(names), most)]
	text := fmt.Sprintf("%s%s: %s", plural.N(len(names), noun), rest, strings.Join(shown, ", "))
	if n := len(names) - len(shown); n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}
