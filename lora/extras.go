package lora

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// textOfOthers are the prefixes of tensors for text encoders that no supported model has, and the encoders' names.
var textOfOthers = []struct{ prefix, name string }{{"text_encoders.t5xxl.", "T5"}}

// extra records tensors that are not part of the adapter but harmless, and reports whether name is one.
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

// orphans drops modules that have only an alpha, as block pruning leaves them.
func (f *File) orphans() {
	f.Modules = slices.DeleteFunc(f.Modules, func(m *Module) bool {
		lone := len(m.tensors) == 1 && m.tensors[alpha] != ""
		if lone {
			f.lone = append(f.lone, m.tensors[alpha])
		}
		return lone
	})
}

// Notices lists the harmless parts of the file that are not used, except embeddings.
func (f *File) Notices() (all []string) {
	if f.lone != nil {
		all = append(all, "ignored: "+list("alpha", " without low-rank factors", quote.Texts(f.lone)))
	}
	if f.others != nil {
		all = append(all, "ignored: "+list("tensor", " for a T5 text encoder, which the model does not have", quote.Texts(f.others)))
	}
	if text, given := f.Metadata[gridKey]; given && f.OriginalSteps() == 0 {
		all = append(all, fmt.Sprintf("ignored: %s in the metadata: want the size of a grid of timesteps, got %s", gridKey, quote.Quoted(text)))
	}
	return all
}

// Notices lists the parts of the adapter's file that are not used: those of [File.Notices], and with Options.Partial the modules without a
// layer in the model.
func (a *Adapter) Notices() (all []string) {
	if a.file != nil {
		all = a.file.Notices()
	}
	if a.Unmatched != nil {
		all = append(all, "not applied: "+list("module", " without a layer in the model", a.Unmatched))
	}
	return all
}

// Limits of a rank, which may also be as large as the layer's smaller side, and of a file's size in bytes: larger than any adapter for the
// largest supported model.
const (
	maxRank = 4096
	maxSize = 16 << 30
)

// bounded reports a rank above the limit for a weight of shape [out, in].
func bounded(rank, out, in int) error {
	if rank > maxRank && rank > min(out, in) {
		return fmt.Errorf("rank %d for a weight of the shape [%d, %d]: want at most %d, or the smaller side", rank, out, in, maxRank)
	}
	return nil
}

// FitError is the error of an adapter that does not match a model.
type FitError struct {
	Match Match
	text  string
}

// Error describes the mismatches in one line.
func (e *FitError) Error() string { return e.text }

// Partly reports whether the adapter could be applied in part, with [Options].Partial.
func (e *FitError) Partly() bool { return e.Match.Err(true) == nil }

// strangers is the error of a file without modules.
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
	if len(strange) == 0 {
		return errors.New("want an adapter (LoRA, LoHa, LoKr, OFT), got a file without tensors")
	}
	return fmt.Errorf("want an adapter (LoRA, LoHa, LoKr, OFT): %s", list("other tensor", "", strange))
}
