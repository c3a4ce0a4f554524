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

// imageExtensions are of files that are read as images. What they hold is told by their content.
var imageExtensions = []string{".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".gif", ".webp", ".bmp"}

// otherExtensions are of images in formats that are not read.
var otherExtensions = []string{
	".avif", ".heic", ".heif", ".hif", ".tif", ".tiff", ".jxl", ".jp2", ".j2k", ".jpx", ".tga", ".psd", ".svg", ".ico", ".qoi", ".exr", ".hdr",
	".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}

// systemFolders are what other systems leave beside a user's files: thumbnails and resource forks, which are no images of a set.
var systemFolders = []string{"@eadir", "__macosx", "$recycle.bin", "#recycle", "system volume information", "lost+found"}

func isImage(name string) bool {
	return slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}

// folder is image files.
type folder struct {
	dir    string
	paths  []string // relative to dir
	labels []int    // nil: none
	// leftOut counts files that look like images and are in formats that are not read, by their extension.
	leftOut map[string]int
	packed  string // a file that holds images in a form that is not read, the first of them
	// others counts files that are no images and do not belong to one, likewise.
	others map[string]int
}

// onlyOthers is an error of data whose images are all in formats that are not read.
func onlyOthers(name string, leftOut map[string]int) error {
	return fmt.Errorf("%s: no images of a format that is read (%s), only %s: convert them", quote.Path(name), strings.Join(imageExtensions, ", "), countsOf(leftOut))
}

// packedExtensions are of files that hold images in a form that is not read.
var packedExtensions = []string{".parquet", ".arrow", ".zip", ".7z", ".rar", ".npz", ".npy", ".mdb", ".tfrecord", ".h5", ".hdf5", ".mat"}

// repack says what to do with such a file.
func repack(file string) error {
	switch ext := strings.ToLower(filepath.Ext(file)); ext {
	case ".parquet", ".arrow":
		return fmt.Errorf(`%s: this is a data set of Hugging Face's datasets library (%s), which is not read: write its images as files, a folder for each class, in Python after import os, datasets: `+
			`for i, x in enumerate(datasets.load_dataset("NAME", split="train")): os.makedirs(f"out/{x['label']}", exist_ok=True); x["image"].save(f"out/{x['label']}/{i}.png")`, quote.Path(file), quote.Text(ext))
	case ".zip", ".7z", ".rar":
		return fmt.Errorf("%s: archives of this kind are not read: unpack it and give the folder", quote.Path(file))
	default:
		return fmt.Errorf("%s: files of the kind %s are not read: write the images as files, a folder for each class", quote.Path(file), quote.Text(ext))
	}
}

// maxDepth ends the descent where symbolic links go in a circle.
const maxDepth = 32

// openImages lists the images below a folder. If all are in subfolders, those are their classes.
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
		return nil, fmt.Errorf("%s: no images (%s), files of CIFAR, IDX files or shards in it", quote.Path(dir), strings.Join(imageExtensions, ", "))
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

// countsOf lists extensions with the number of their files.
func countsOf(n map[string]int) string {
	var words []string
	for _, ext := range slices.Sorted(maps.Keys(n)) {
		words = append(words, fmt.Sprintf("%d %s", n[ext], ext))
	}
	return strings.Join(words, ", ")
}

// hidden tells whether a file or folder is not the user's: hidden, or left there by a system.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || slices.Contains(systemFolders, strings.ToLower(name))
}

// list appends the images below a folder, in the order of their names. Hidden files are none of ours.
func (f *folder) list(sub string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: folders are nested more than %d deep: do symbolic links go in a circle?", quote.Path(filepath.Join(f.dir, sub)), maxDepth)
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

// captionExtension is of the text that lies beside an image, with its name otherwise, as kohya's scripts have it.
const captionExtension = ".txt"

// caption is the text beside an image: cat.txt of cat.jpg.
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
		return "", fmt.Errorf("%s: it has %d bytes; of a caption at most %d MiB are read", quote.Path(path), size, maxText>>20)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxText))
	return strings.TrimSpace(string(text)), err
}

func (f *folder) identify(w io.Writer) error {
	for i, path := range f.paths {
		size := int64(-1) // an image that is not there will be found corrupt, or its reader fails
		if st, err := os.Stat(f.name(i)); err == nil {
			size = st.Size()
		}
		if _, err := fmt.Fprintf(w, "%q %d %d\n", filepath.ToSlash(path), size, f.label(i)); err != nil { //quote: a sum is made of it
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
		return nil, unreadable(err)
	case st.Mode()&fs.ModeType != 0:
		return nil, fmt.Errorf("%w: it is not a plain file", errNoImage)
	case st.Size() > vision.MaxEncoded:
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d MiB are read", errNoImage, st.Size(), vision.MaxEncoded>>20)
	}
	data, err := plainfile.Read(f.name(i), vision.MaxEncoded)
	return data, unreadable(err)
}

// unreadable tells files that are not there or not to be read, such as links to nothing, from disks that fail: the first are
// images like corrupt ones, of which the others may be fine.
func unreadable(err error) error {
	for _, one := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.ELOOP, syscall.ENOTDIR, syscall.ENAMETOOLONG} {
		if errors.Is(err, one) {
			return fmt.Errorf("%w: %w", errNoImage, err)
		}
	}
	return err
}
