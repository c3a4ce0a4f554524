package sd

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// inversionEnds are the file extensions of embeddings.
var inversionEnds = []string{".safetensors", ".pt", ".bin"}

// FindInversions reads embeddings from a directory and its subdirectories. A file's word is its name without extension, as in A1111. wanted
// is called once for each file, before it is opened, and selects the files to read. Subdirectories that cannot be read are skipped; a directory with more than 100,000
// entries is an error.
//
//	words, err := sd.FindInversions("embeddings", func(_, word string) bool { return prompt.Mentions(text, word) })
func FindInversions(dir string, wanted func(path, word string) bool) (all []Inversion, err error) {
	err = plainfile.Walk(dir, func(path string) error {
		word := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		if !slices.Contains(inversionEnds, strings.ToLower(filepath.Ext(path))) || !wanted(path, word) {
			return nil
		}
		in, err := OpenInversion(path)
		if err != nil {
			return err
		}
		in.Word = word
		all = append(all, in)
		return nil
	})
	return all, err
}
