package dataset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// folder is image files in a directory and its subdirectories.
type folder struct {
	dir     string
	paths   []string       // relative to dir
	labels  []int          // nil: none
	leftOut map[string]int // image files in formats that are not supported, by extension
	others  map[string]int // files that are neither images nor captions, by extension
}

// openImages lists the images in a directory and below. If all are in subdirectories, those are the classes.
func openImages(name, dir string, o Options) (*Set, error) {
	list, err := imagefile.List(dir, true)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir, paths: list.Images, leftOut: list.LeftOut, others: map[string]int{}}
	for _, path := range list.Rest {
		if ext := imagefile.Ext(path); ext != captionExtension {
			f.others[ext]++
		}
	}
	switch {
	case len(f.paths) > 0:
	case len(f.leftOut) > 0:
		return nil, imagefile.OnlyOthers(dir, f.leftOut)
	case list.Packed != "":
		return nil, imagefile.Repack(list.Packed)
	default:
		return nil, fmt.Errorf("%s: the directory has no images (%s), CIFAR files, IDX files or shards", quote.Path(dir), strings.Join(imagefile.Extensions, ", "))
	}
	var classes []string
	if !slices.ContainsFunc(f.paths, func(p string) bool { return filepath.Dir(p) == "." }) {
		// The paths are sorted by directory, so the images of a class are consecutive.
		for _, p := range f.paths {
			class, _, _ := strings.Cut(filepath.ToSlash(p), "/")
			if n := len(classes); n == 0 || classes[n-1] != class {
				classes = append(classes, class)
			}
			f.labels = append(f.labels, len(classes)-1)
		}
	}
	return newSet(name, f, classes, o)
}

func (f *folder) Len() int          { return len(f.paths) }
func (f *folder) Close() error      { return nil }
func (f *folder) name(i int) string { return filepath.Join(f.dir, f.paths[i]) }

// captionExtension is the extension of an image's caption file, as in kohya's scripts.
const captionExtension = ".txt"

// caption reads an image's caption file: cat.txt for cat.jpg.
func (f *folder) caption(i int) (string, error) {
	path := strings.TrimSuffix(f.name(i), filepath.Ext(f.paths[i])) + captionExtension
	file, size, err := plainfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	if size > maxText {
		return "", fmt.Errorf("%s: the caption has %d bytes, the limit is %d MiB", quote.Path(path), size, maxText>>20)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxText))
	return strings.TrimSpace(string(text)), err
}

func (f *folder) identify(w io.Writer) error {
	for i, path := range f.paths {
		size := int64(-1) // reading a missing image reports it as corrupt, or fails
		if st, err := os.Stat(f.name(i)); err == nil {
			size = st.Size()
		}
		if _, err := fmt.Fprintf(w, "%q %d %d\n", filepath.ToSlash(path), size, f.label(i)); err != nil { //quote: only hashed
			return err
		}
	}
	return nil
}

func (f *folder) label(i int) int {
	if f.labels == nil {
		return -1
	}
	return f.labels[i]
}

func (f *folder) encoded(i int) ([]byte, error) { return imagefile.Read(f.name(i)) }
