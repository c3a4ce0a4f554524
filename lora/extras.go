package lora

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// textOfOthers are what names of tensors for text encoders begin with that no model here has, and their names.
var textOfOthers = []struct{ prefix, name string }{{"text_encoders.t5xxl.", "T5"}}

// extra takes tensors that are harmless beside an adapter: it tells whether the name is one of those.
func (f *File) extra(name string) bool {
	for _, other := range textOfOthers {
		if strings.HasPrefix(name, other.prefix) {
			f.others = append(f.others, name)
			return true
		}
	}
	rest, ok := strings.CutPrefix(name, bundled)
	if !ok {
		return false
	}
	word, key, ok := strings.Cut(rest, ".")
	if !ok || word == "" || key == "" {
		return false
	}
	i := slices.IndexFunc(f.Embeddings, func(e Embedding) bool { return e.Name == word })
	if i < 0 {
		i = len(f.Embeddings)
		f.Embeddings = append(f.Embeddings, Embedding{Name: word, file: f})
	}
	f.Embeddings[i].Keys = append(f.Embeddings[i].Keys, key)
	slices.Sort(f.Embeddings[i].Keys)
	return true
}

// orphans leaves modules out of which there is nothing but an alpha: pruning by blocks leaves such.
func (f *File) orphans() {
	f.Modules = slices.DeleteFunc(f.Modules, func(m *Module) bool {
		lone := len(m.tensors) == 1 && m.tensors[alpha] != ""
		if lone {
			f.lone = append(f.lone, m.tensors[alpha])
		}
		return lone
	})
}

// Notices say what of the file is not used, and harmless. Embeddings are not among it.
func (f *File) Notices() (all []string) {
	if f.lone != nil {
		all = append(all, "ignored: "+list("alpha", " without low-rank factors", quote.Texts(f.lone)))
	}
	if f.others != nil {
		all = append(all, "ignored: "+list("tensor", " for a T5 text encoder, which the model does not have", quote.Texts(f.others)))
	}
	return all
}

// Notices say what of the adapter's file is not used: what [File.Notices] says, and with Options.Partial the modules of which the model has
// no layer.
func (a *Adapter) Notices() (all []string) {
	if a.file != nil {
		all = a.file.Notices()
	}
	if a.Unmatched != nil {
		all = append(all, "not applied: "+list("module", " without a layer in the model", a.Unmatched))
	}
	return all
}

// A rank may be as large as that, or as a layer's smaller side; a product has no more. Files are of at most maxSize bytes, more than any
// adapter for the largest model that is read here.
const (
	maxRank = 4096
	maxSize = 16 << 30
)

// bounded reports a rank that no adapter has, by the sides of the matrix that its factors make.
func bounded(rank, out, in int) error {
	if rank > maxRank && rank > min(out, in) {
		return fmt.Errorf("rank %d for a weight of the shape [%d, %d]: want at most %d, or the smaller side", rank, out, in, maxRank)
	}
	return nil
}

// FitError says what of an adapter does not fit a model.
type FitError struct {
	Match Match
	text  string
}

// Error says it in a line.
func (e *FitError) Error() string { return e.text }

// Partly tells whether the rest of the adapter fits, as [Options].Partial lets it.
func (e *FitError) Partly() bool { return e.Match.Err(true) == nil }

// strangers is the error of a file without any module.
func (f *File) strangers(strange []string) error {
	switch {
	case f.Embeddings != nil && strange == nil:
		var words []string
		for _, e := range f.Embeddings {
			words = append(words, quote.Text(e.Name))
		}
		return fmt.Errorf("it has no adapter, only textual inversion embeddings: %s", strings.Join(words, ", "))
	case len(f.lone)+len(f.others) > 0 && strange == nil:
		return errors.New("it has no adapter: " + strings.Join(f.Notices(), "; "))
	}
	return fmt.Errorf("want an adapter (LoRA, LoHa, LoKr, OFT): %s", list("other tensor", "", strange))
}
