package dataset

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var imageExtensions = []string{".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"}

func isImage(name string) bool {
	return slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}

// folder is image files.
type folder struct {
	dir    string
	paths  []string // relative to dir
	labels []int    // nil: none
}

// maxDepth ends the descent where symbolic links go in a circle.
const maxDepth = 32

// openImages lists the images below a folder. If all are in subfolders, those are their classes.
func openImages(name, dir string, o Options) (*Set, error) {
	f := &folder{dir: dir}
	if err := f.list(".", 0); err != nil {
		return nil, err
	}
	if len(f.paths) == 0 {
		return nil, fmt.Errorf("%s: no images (%s), CIFAR-10 binaries, IDX files or shards in it", dir, strings.Join(imageExtensions, ", "))
	}
	var classes []string
	if !slices.ContainsFunc(f.paths, func(p string) bool { return filepath.Dir(p) == "." }) {
		// The list is in the order of folders' names, so a class's images follow each other.
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

// list appends the images below a folder, in the order of their names. Hidden files are none of ours.
func (f *folder) list(sub string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: folders are nested more than %d deep: do symbolic links go in a circle?", filepath.Join(f.dir, sub), maxDepth)
	}
	entries, err := os.ReadDir(filepath.Join(f.dir, sub))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(sub, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case isDir(filepath.Join(f.dir, path), e):
			if err := f.list(path, depth+1); err != nil {
				return err
			}
		case isImage(path):
			f.paths = append(f.paths, path)
		}
	}
	return nil
}

func (f *folder) Len() int                    { return len(f.paths) }
func (f *folder) Close() error                { return nil }
func (f *folder) name(i int) string           { return filepath.Join(f.dir, f.paths[i]) }
func (f *folder) caption(int) (string, error) { return "", nil }

func (f *folder) identify(w io.Writer) error {
	for i, path := range f.paths {
		size := int64(-1) // an image that is not there will be found corrupt, or its reader fails
		if st, err := os.Stat(f.name(i)); err == nil {
			size = st.Size()
		}
		if _, err := fmt.Fprintf(w, "%q %d %d\n", filepath.ToSlash(path), size, f.label(i)); err != nil {
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

func (f *folder) encoded(i int) ([]byte, error) {
	st, err := os.Stat(f.name(i)) // before opening, which would wait for the other end of a pipe
	switch {
	case err != nil:
		return nil, err
	case st.Mode()&fs.ModeType != 0:
		return nil, fmt.Errorf("%w: it is not a plain file", errNoImage)
	case st.Size() > maxEncoded:
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d MiB are read", errNoImage, st.Size(), maxEncoded>>20)
	}
	return os.ReadFile(f.name(i))
}
