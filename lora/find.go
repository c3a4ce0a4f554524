package lora

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// fileNames are the names of adapter files in directories.
var fileNames = []string{"adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"}

// fileOf returns the weights file, and the directory that may hold peft's configuration.
func fileOf(path string) (file, folder string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", "", err
	}
	if !st.IsDir() {
		return path, filepath.Dir(path), nil
	}
	for _, name := range fileNames {
		file := filepath.Join(path, name)
		if _, err := os.Stat(file); err == nil {
			return file, path, nil
		}
	}
	return "", "", fmt.Errorf("%s: want an adapter file, or a directory with one of %s", quote.Path(path), strings.Join(fileNames, ", "))
}

// stamp tells whether an adapter's files are those of before: of its weights, and of peft's configuration; nil: there is none.
type stamp [2]fs.FileInfo

func stampOf(path string) (s stamp) {
	file, folder, err := fileOf(path)
	if err != nil {
		return s
	}
	for i, path := range []string{file, filepath.Join(folder, configName)} {
		if st, err := os.Stat(path); err == nil {
			s[i] = st
		}
	}
	return s
}

// same reports whether no file was replaced or written in between. Without weights it is false.
func (s stamp) same(o stamp) bool {
	if s[0] == nil || o[0] == nil {
		return false
	}
	for i, a := range s {
		b := o[i]
		if (a == nil) != (b == nil) || a != nil && !(os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())) {
			return false
		}
	}
	return true
}

// extensions are the extensions of adapter files, in search order.
var extensions = []string{".safetensors", ".pt", ".ckpt", ".bin"}

// aliasKey is the metadata key of an adapter's name in kohya's scripts. A1111's web UI also accepts this name in tags.
const aliasKey = "ss_output_name"

// Find returns the path of the adapter with a name, as in a prompt's tags. It searches in turn: a file or directory with that path in dir,
// with or without the file extension, where a training run's directory stands for its best snapshot; a file with that name anywhere below dir; a file with that name in its metadata (ss_output_name). A
// name outside of dir, no match, and several matches are errors, and so is a directory with more than 100,000 entries. Subdirectories that cannot
// be read are skipped.
func Find(dir, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("adapter %s: want the name of a file in %s", quote.Quoted(name), quote.Path(dir))
	}
	for _, end := range append([]string{""}, extensions...) {
		path := filepath.Join(dir, name+end)
		if st, err := os.Stat(path); err == nil && (!st.IsDir() || end == "") {
			return bestOf(path), nil
		}
	}
	found, err := walk(dir, func(path string) bool {
		ext := filepath.Ext(path)
		return slices.Contains(extensions, ext) && strings.TrimSuffix(filepath.Base(path), ext) == name
	})
	if err == nil && found == nil {
		found, err = walk(dir, func(path string) bool { return alias(path) == name })
	}
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("there is no adapter %s in %s", quote.Quoted(name), quote.Path(dir))
	case len(found) > 1:
		return "", fmt.Errorf("the name %s is ambiguous, it matches the adapters %s: want the path of one in the directory", quote.Quoted(name),
			strings.Join(quote.Texts(found), ", "))
	}
	return found[0], nil
}

// bestOf returns the best snapshot of a training run in place of its directory, and any other path as it is.
func bestOf(path string) string {
	best := filepath.Join(path, "best.safetensors")
	for _, of := range []string{best, filepath.Join(path, "options.json")} {
		if st, err := os.Stat(of); err != nil || !st.Mode().IsRegular() {
			return path
		}
	}
	return best
}

// walk lists the files below a directory for which want is true.
func walk(dir string, want func(path string) bool) (found []string, err error) {
	err = plainfile.Walk(dir, func(path string) error {
		if want(path) {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// alias is the name in an adapter's metadata; "" if it has none or cannot be read. Only the header is read.
func alias(path string) string {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() || filepath.Ext(path) != ".safetensors" {
		return ""
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return f.Metadata()[aliasKey]
}
