package job

import (
	"errors"
	"fmt"
	"strings"

	q "github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
)

// notes say what of the adapters' files is not used.
func (on *adapters) notes() (notes []string) {
	for _, a := range on.loaded {
		notes = append(notes, adapterNotes(a.File().Path, a.Notices(), nil, "")...)
	}
	return append(notes, on.remarks...)
}

// adapterNotes are notices with the adapter's name, and one of the embeddings that it brings along and that are left out, with the reason.
func adapterNotes(file string, notices []string, embeddings []lora.Embedding, why string) (notes []string) {
	for _, n := range notices {
		notes = append(notes, fmt.Sprintf("adapter %s: %s", q.Text(adapterName(file)), n))
	}
	if len(embeddings) > 0 {
		var words []string
		for _, e := range embeddings {
			words = append(words, q.Text(e.Name))
		}
		notes = append(notes, fmt.Sprintf("adapter %s: the textual inversion embeddings in its file are left out, as %s: %s", q.Text(adapterName(file)), why, strings.Join(words, ", ")))
	}
	return notes
}

// partly adds to the error of an adapter of which only some modules fit what applies those.
func partly(err error, flag string) error {
	var fit *lora.FitError
	if errors.As(err, &fit) && fit.Partly() {
		return fmt.Errorf("%w; pass %s to apply the modules that fit", err, flag)
	}
	return err
}
