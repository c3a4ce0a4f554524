package dataset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
)

// imageExtensions are the extensions of files that are read as images. Their format is detected from the content.
var imageExtensions = []string{".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".gif", ".webp", ".bmp"}

// otherExtensions are the extensions of image formats that are not supported.
var otherExtensions = []string{
	".avif", ".heic", ".heif", ".hif", ".tif", ".tiff", ".jxl", ".jp2", ".j2k", ".jpx", ".tga", ".psd", ".svg", ".ico", ".qoi", ".exr", ".hdr",
	".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}

// systemFolders are directories that operating systems add to a user's files: thumbnails, resource forks and deleted files. Their images do
// not belong to a dataset.
var systemFolders = []string{"@eadir", "__macosx", "$recycle.bin", "#recycle", "system volume information", "lost+found"}

func isImage(name string) bool {
	return slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}

// folder is image files in a directory and its subdirectories.
type folder struct {
	dir     string
	paths   []string       // relative to dir
	labels  []int          // nil: none
	leftOut map[string]int // image files in formats that are not supported, by extension
	packed  string         // path of the first file with one of packedExtensions; "": none
	others  map[string]int // files that are neither images nor captions, by extension
}

// onlyOthers is the error for data whose images are all in formats that are not supported.
func onlyOthers(name string, leftOut map[string]int) error {
	return fmt.Errorf("%s: no images in a supported format (%s), only %s: convert them", quote.Path(name), strings.Join(imageExtensions, ", "), countsOf(leftOut))
}

// packedExtensions are the extensions of archives and tables of images that are not supported.
var packedExtensions = []string{".parquet", ".arrow", ".zip", ".7z", ".rar", ".npz", ".npy", ".mdb", ".tfrecord", ".h5", ".hdf5", ".mat"}

// repack is the error for such a file, which says what to do with it.
func repack(file string) error {
	switch ext := strings.ToLower(filepath.Ext(file)); ext {
	case ".parquet", ".arrow":
		return fmt.Errorf(`%s: datasets of Hugging Face's datasets library (%s) are not supported: write the images as files, one directory per class, in Python after import os, datasets: `+
			`for i, x in enumerate(datasets.load_dataset("NAME", split="train")): os.makedirs(f"out/{x['label']}", exist_ok=True); x["image"].save(f"out/{x['label']}/{i}.png")`, quote.Path(file), quote.Text(ext))
	case ".zip", ".7z", ".rar":
		return fmt.Errorf("%s: %s archives are not supported: unpack it and pass the directory", quote.Path(file), quote.Text(ext))
	default:
		return fmt.Errorf("%s: %s files are not supported: write the images as files, one directory per class", quote.Path(file), quote.Text(ext))
	}
}

// maxDepth is the limit for nested directories, so that a cycle of symbolic links ends.
const maxDepth = 32

// openImages lists the images in a directory and below. If all are in subdirectories, those are the classes.
func openImages(name, dir string, o Options) (*Set, error) {
	f := &folder{dir: dir, leftOut: map[string]int{}, others: map[string]int{}}
	if err := f.list(".", 0); err != nil {
		return nil, err
	}
	switch {
	case len(f.paths) > 0:
	case len(f.leftOut) > 0:
		return nil, onlyOthers(dir, f.leftOut)
	case f.packed != "":
		return nil, repack(f.packed)
	default:
		return nil, fmt.Errorf("%s: the directory has no images (%s), CIFAR files, IDX files or shards", quote.Path(dir), strings.Join(imageExtensions, ", "))
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

// countsOf lists extensions with their number of files.
func countsOf(n map[string]int) string {
	var words []string
	for _, ext := range slices.Sorted(maps.Keys(n)) {
		words = append(words, fmt.Sprintf("%d %s", n[ext], ext))
	}
	return strings.Join(words, ", ")
}

// hidden reports whether a file or directory is hidden or one of the operating system's.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || slices.Contains(systemFolders, strings.ToLower(name))
}

// list appends the images in a directory and below, in the order of their names. Hidden files are skipped.
func (f *folder) list(sub string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: directories are nested more than %d deep; is there a cycle of symbolic links?", quote.Path(filepath.Join(f.dir, sub)), maxDepth)
	}
	entries, err := os.ReadDir(filepath.Join(f.dir, sub))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(sub, e.Name())
		switch {
		case hidden(e.Name()):
		case isDir(filepath.Join(f.dir, path), e):
			if err := f.list(path, depth+1); err != nil {
				return err
			}
		case isImage(path):
			f.paths = append(f.paths, path)
		default:
			switch ext := strings.ToLower(filepath.Ext(path)); {
			case slices.Contains(otherExtensions, ext):
				f.leftOut[ext]++
			case slices.Contains(packedExtensions, ext) && f.packed == "":
				f.packed = filepath.Join(f.dir, path)
				f.others[ext]++
			case ext != captionExtension:
				f.others[ext]++
			}
		}
	}
	return nil
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

func (f *folder) encoded(i int) ([]byte, error) {
	st, err := os.Stat(f.name(i)) // before opening, which would block on a named pipe
	switch {
	case err != nil:
		return nil, unreadable(err)
	case st.Mode()&fs.ModeType != 0:
		return nil, fmt.Errorf("%w: not a regular file", errNoImage)
	case st.Size() > vision.MaxEncoded:
		return nil, fmt.Errorf("%w: the file has %d bytes, the limit is %d MiB", errNoImage, st.Size(), vision.MaxEncoded>>20)
	}
	data, err := plainfile.Read(f.name(i), vision.MaxEncoded)
	return data, unreadable(err)
}

// unreadable wraps errNoImage around errors about a single file, such as a dangling link or missing permission: other images may be
// readable. Errors of the disk are returned unchanged.
func unreadable(err error) error {
	for _, one := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.ELOOP, syscall.ENOTDIR, syscall.ENAMETOOLONG} {
		if errors.Is(err, one) {
			return fmt.Errorf("%w: %w", errNoImage, err)
		}
	}
	return err
}
