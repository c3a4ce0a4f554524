package job

import (
	"errors"
	"fmt"
	"strings"

	q "github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
)

// notes returns notices of what the adapters' files hold and is not used.
func (on *adapters) notes() (notes []string) {
	for _, a := range on.loaded {
		notes = append(notes, adapterNotes(a.File().Path, a.Notices(), nil, "")...)
	}
	return append(notes, on.remarks...)
}

// adapterNotes prefixes notices with the adapter's name, and adds one that lists the bundled embeddings that are not used, with the reason.
func adapterNotes(file string, notices []string, embeddings []lora.Embedding, why string) (notes []string) {
	for _, n := range notices {
		notes = append(notes, fmt.Sprintf("adapter %s: %s", q.Text(adapterName(file)), n))
	}
	if len(embeddings) > 0 {
		var words []string
		for _, e := range embeddings {
			words = append(words, q.Text(e.Name))
		}
		notes = append(notes, fmt.Sprintf("adapter %s: the textual inversion embeddings in its file are not used, as %s: %s", q.Text(adapterName(file)), why, strings.Join(words, ", ")))
	}
	return notes
}

// partly adds to the error of an adapter that fits only in part the flag that applies the modules that fit.
func partly(err error, flag string) error {
	var fit *lora.FitError
	if errors.As(err, &fit) && fit.Partly() {
		return fmt.Errorf("%w; pass %s to apply the modules that fit", err, flag)
	}
	return err
}
