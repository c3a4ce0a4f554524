package sd

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// inversionEnds are the extensions of embeddings' files.
var inversionEnds = []string{".safetensors", ".pt", ".bin"}

// FindInversions reads the embeddings in a directory, and below it, that are wanted. Their words are the names of their files, as in A1111.
// wanted is asked once for each file, before it is opened:
//
//	words, err := sd.FindInversions("embeddings", func(_, word string) bool { return prompt.Mentions(text, word) })
func FindInversions(dir string, wanted func(path, word string) bool) (all []Inversion, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		word := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		if err != nil || d.IsDir() || !slices.Contains(inversionEnds, strings.ToLower(filepath.Ext(path))) || !wanted(path, word) {
			return err
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
