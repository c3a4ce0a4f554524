package lora

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// fileNames are what adapters' files are called in folders.
var fileNames = []string{"adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"}

// fileOf returns the file of weights, and the folder where peft's configuration may be.
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
	return "", "", fmt.Errorf("%s: want an adapter's file, or a directory with one of %s", quote.Path(path), strings.Join(fileNames, ", "))
}

// extensions are those of adapters' files, in the order in which they are looked for.
var extensions = []string{".safetensors", ".pt", ".ckpt", ".bin"}

// aliasKey is where kohya's scripts write the name that an adapter was trained under, which A1111's web UI takes in tags, too.
const aliasKey = "ss_output_name"

// Find returns the path of the adapter that a name stands for, as tags in prompts have it: a file or a directory in dir by its path there,
// with or without the file's extension; else a file of that name anywhere below dir; else the file whose metadata have the name
// (ss_output_name). A name that leads out of dir, no such adapter, and more than one are errors.
func Find(dir, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the adapter %s: want the name of a file in %s", quote.Quoted(name), quote.Path(dir))
	}
	for _, end := range append([]string{""}, extensions...) {
		path := filepath.Join(dir, name+end)
		if st, err := os.Stat(path); err == nil && (!st.IsDir() || end == "") {
			return path, nil
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
		return "", fmt.Errorf("the name %s stands for several adapters, %s: want one of them named by its path in the directory", quote.Quoted(name),
			strings.Join(quote.Texts(found), ", "))
	}
	return found[0], nil
}

// walk lists the regular files in a directory, and below it, that are wanted.
func walk(dir string, want func(path string) bool) (found []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && want(path) {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

// alias is the name in an adapter's metadata; "": it has none. Only the header is read; what cannot be read has no name.
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
