package job

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	q "github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// aliasKey is where kohya's scripts write the name that an adapter was trained under, which A1111's web UI takes in tags, too.
const aliasKey = "ss_output_name"

// findAlias finds the file of an adapter in a folder, or below it, whose metadata have that name; "": there is none. Only headers are read;
// what cannot be read has no name.
func findAlias(dir, name string) (string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || filepath.Ext(path) != ".safetensors" {
			return err
		}
		f, err := safetensors.Open(path)
		if err != nil {
			return nil
		}
		if f.Metadata()[aliasKey] == name {
			found = append(found, path)
		}
		return f.Close()
	})
	switch {
	case err != nil || len(found) == 0:
		return "", err
	case len(found) > 1:
		return "", fmt.Errorf("several adapters are called %s in their metadata: %s: name one of them by its file", q.Quoted(name), strings.Join(q.Texts(found), ", "))
	}
	return found[0], nil
}

// notes say what of the adapters' files is not used.
func (on *adapters) notes() (notes []string) {
	for _, file := range on.order {
		notes = append(notes, adapterNotes(file, on.loaded[file].Notices(), nil, "")...)
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
