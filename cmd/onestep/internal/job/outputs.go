package job

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
)

// files lists the files that will be written; one that exists is an error unless it may be overwritten.
func (o Generate) files() ([]string, error) {
	pattern := o.Out
	if st, err := os.Stat(pattern); strings.HasSuffix(pattern, "/") || (err == nil && st.IsDir()) {
		pattern = filepath.Join(pattern, "{n}.png")
	}
	if vision.IsJPEG(pattern) && !o.Bare {
		const most = 8000 // as UTF-16, and with the settings, it fills a JPEG's 64 kB of EXIF
		for _, p := range o.Prompts {
			if n := len(p) + len(o.Negative); n > most {
				return nil, usage("--out: a JPEG has no room for the settings with a prompt of %d bytes: want a name that ends in .png or .webp, or --no-metadata", n)
			}
		}
	}
	if !vision.IsWritten(pattern) {
		return nil, usage("--out: want a name that ends in .png, .jpg or .webp, with {n}, {prompt} or {seed} for several images, or DIR/, got %s", quote.Quoted(o.Out))
	}
	if err := checkPlaceholders(pattern); err != nil {
		return nil, err
	}
	var files []string
	seen := map[string]bool{}
	for i := range o.Prompts {
		for j := range o.N {
			name := o.fileName(pattern, i, j)
			if seen[name] {
				return nil, usage("--out: %s names several images the same, %s: want {n} in it", quote.Quoted(o.Out), name)
			}
			seen[name] = true
			files = append(files, name)
		}
	}
	folders := map[string]bool{}
	for _, f := range files {
		folders[directoryOf(f)] = true
	}
	for dir := range folders {
		if err := atomicfile.Writable(dir); err != nil {
			return nil, fmt.Errorf("--out: %w", err)
		}
	}
	there := files
	if o.Preview != "" {
		if err := atomicfile.Writable(directoryOf(o.Preview)); err != nil {
			return nil, fmt.Errorf("--preview: %w", err)
		}
		if slices.ContainsFunc(files, func(f string) bool { return filepath.Clean(f) == filepath.Clean(o.Preview) }) {
			return nil, usage("--preview: %s is also the name of an output image", quote.Path(o.Preview))
		}
		there = append(files[:len(files):len(files)], o.Preview)
	}
	for _, f := range there {
		if err := mayWrite(f, o.Overwrite); err != nil {
			return nil, err
		}
	}
	return files, nil
}
