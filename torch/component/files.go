package component

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// stems are the names of weights files, before the variant and the extension.
var stems = []string{"diffusion_pytorch_model", "model"}

// Names returns the names that weights of a variant may have, in order of preference: one file, or the index of several shards.
func Names(variant string) []string {
	infix := ""
	if variant != "" {
		infix = "." + variant
	}
	var names []string
	add := func(stem, ext string) {
		names = append(names, stem+infix+ext, stem+ext+".index"+infix+".json")
		if variant != "" {
			names = append(names, stem+infix+ext+".index.json")
		}
	}
	for _, stem := range stems {
		add(stem, ".safetensors")
	}
	for _, stem := range []string{"diffusion_pytorch_model", "pytorch_model"} {
		add(stem, ".bin")
	}
	return names
}

// Find finds the weights in a directory. If there are none, the error wraps fs.ErrNotExist and lists the variants that exist.
func Find(dir, variant string) (string, error) {
	if strings.ContainsAny(variant, "/\\\x00") {
		return "", fmt.Errorf("variant: want a name such as fp16, got %s", quote.Quoted(variant))
	}
	for _, name := range Names(variant) {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var there []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".safetensors" || ext == ".bin" || ext == ".msgpack" || strings.Contains(e.Name(), ".index.") {
			there = append(there, quote.Text(e.Name()))
		}
	}
	what, have := "weights", "no weights"
	if variant != "" {
		what = fmt.Sprintf("weights of the variant %s", quote.Quoted(variant))
	}
	if there != nil {
		have = strings.Join(there, ", ")
	}
	return "", fmt.Errorf("%s: want %s, such as %s; found %s: %w", quote.Path(dir), what, quote.Text(Names(variant)[0]), have, fs.ErrNotExist)
}
