// Package imagefile knows which files are images by their names, which files in a directory are not the user's, and reads image files
// within limits.
package imagefile

import (
	"errors"
	"fmt"
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

// Extensions are the extensions of files that are read as images. Their format is detected from the content.
var Extensions = []string{".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".gif", ".webp", ".bmp"}

// otherExtensions are the extensions of image formats that are not supported.
var otherExtensions = []string{
	".avif", ".heic", ".heif", ".hif", ".tif", ".tiff", ".jxl", ".jp2", ".j2k", ".jpx", ".tga", ".psd", ".svg", ".ico", ".qoi", ".exr", ".hdr",
	".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}

// systemFolders are directories that operating systems add to a user's files: thumbnails, resource forks and deleted files. Their images do
// not belong to a dataset.
var systemFolders = []string{"@eadir", "__macosx", "$recycle.bin", "#recycle", "system volume information", "lost+found"}

// packedExtensions are the extensions of archives and tables of images that are not supported.
var packedExtensions = []string{".parquet", ".arrow", ".zip", ".7z", ".rar", ".npz", ".npy", ".mdb", ".tfrecord", ".h5", ".hdf5", ".mat"}

// MaxDepth is the limit for nested directories, so that a cycle of symbolic links ends.
const MaxDepth = 32

// ErrNone is wrapped by errors about files that are not images. Those count as corrupt images, unlike I/O errors.
var ErrNone = errors.New("no image")

// Is reports whether a file is read as an image, by its name.
func Is(name string) bool { return slices.Contains(Extensions, Ext(name)) }

// IsOther reports whether a file is an image in a format that is not supported, by its name.
func IsOther(name string) bool { return slices.Contains(otherExtensions, Ext(name)) }

// IsPacked reports whether a file holds images in a form that is not supported, by its name.
func IsPacked(name string) bool { return slices.Contains(packedExtensions, Ext(name)) }

// Ext is a name's extension in lower case, with its dot.
func Ext(name string) string { return strings.ToLower(filepath.Ext(name)) }

// Hidden reports whether a file or directory is hidden or one of the operating system's.
func Hidden(name string) bool {
	return strings.HasPrefix(name, ".") || slices.Contains(systemFolders, strings.ToLower(name))
}

// IsDir reports whether an entry at path is a directory, or a symbolic link to one.
func IsDir(path string, e os.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// Counts lists extensions with their number of files.
func Counts(n map[string]int) string {
	var words []string
	for _, ext := range slices.Sorted(maps.Keys(n)) {
		words = append(words, fmt.Sprintf("%d %s", n[ext], ext))
	}
	return strings.Join(words, ", ")
}

// OnlyOthers is the error for data whose images are all in formats that are not supported.
func OnlyOthers(name string, leftOut map[string]int) error {
	return fmt.Errorf("%s: no images in a supported format (%s), only %s: convert them", quote.Path(name), strings.Join(Extensions, ", "), Counts(leftOut))
}

// Repack is the error for a file for which [IsPacked] holds, which says what to do with it.
func Repack(file string) error {
	switch ext := Ext(file); ext {
	case ".parquet", ".arrow":
		return fmt.Errorf(`%s: datasets of Hugging Face's datasets library (%s) are not supported: write the images as files, one directory per class, in Python after import os, datasets: `+
			`for i, x in enumerate(datasets.load_dataset("NAME", split="train")): os.makedirs(f"out/{x['label']}", exist_ok=True); x["image"].save(f"out/{x['label']}/{i}.png")`, quote.Path(file), quote.Text(ext))
	case ".zip", ".7z", ".rar":
		return fmt.Errorf("%s: %s archives are not supported: unpack it and pass the directory", quote.Path(file), quote.Text(ext))
	default:
		return fmt.Errorf("%s: %s files are not supported: write the images as files, one directory per class", quote.Path(file), quote.Text(ext))
	}
}

// Read reads an image file. What is not an image of at most [vision.MaxEncoded] bytes wraps [ErrNone]; other errors are I/O errors.
func Read(path string) ([]byte, error) {
	st, err := os.Stat(path) // before opening, which would block on a named pipe
	switch {
	case err != nil:
		return nil, Unreadable(err)
	case st.Mode()&fs.ModeType != 0:
		return nil, fmt.Errorf("%w: not a regular file", ErrNone)
	case st.Size() > vision.MaxEncoded:
		return nil, fmt.Errorf("%w: the file has %d bytes, the limit is %d MiB", ErrNone, st.Size(), vision.MaxEncoded>>20)
	}
	data, err := plainfile.Read(path, vision.MaxEncoded)
	return data, Unreadable(err)
}

// Unreadable wraps ErrNone around errors about a single file, such as a dangling link or missing permission: other images may be
// readable. Errors of the disk are returned unchanged.
func Unreadable(err error) error {
	for _, one := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.ELOOP, syscall.ENOTDIR, syscall.ENAMETOOLONG} {
		if errors.Is(err, one) {
			return fmt.Errorf("%w: %w", ErrNone, err)
		}
	}
	return err
}

// Listing is what lies below a directory. Paths are relative to it, in the order of names.
type Listing struct {
	Images  []string
	LeftOut map[string]int // images in formats that are not supported, by extension
	Rest    []string       // other files
	Packed  string         // the first of them for which IsPacked holds, with the directory; "": none
	Dirs    []string       // directories that were not entered
}

// List lists the files in a directory, and with deep those below it. Hidden files are left out.
func List(dir string, deep bool) (Listing, error) {
	l := Listing{LeftOut: map[string]int{}}
	err := l.list(dir, ".", deep, 0)
	return l, err
}

func (l *Listing) list(dir, sub string, deep bool, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("%s: directories are nested more than %d deep; is there a cycle of symbolic links?", quote.Path(filepath.Join(dir, sub)), MaxDepth)
	}
	entries, err := os.ReadDir(filepath.Join(dir, sub))
	if err != nil {
		return quote.Error(err)
	}
	for _, e := range entries {
		path := filepath.Join(sub, e.Name())
		switch {
		case Hidden(e.Name()):
		case IsDir(filepath.Join(dir, path), e):
			if !deep {
				l.Dirs = append(l.Dirs, path)
			} else if err := l.list(dir, path, deep, depth+1); err != nil {
				return err
			}
		case Is(path):
			l.Images = append(l.Images, path)
		case IsOther(path):
			l.LeftOut[Ext(path)]++
		default:
			if IsPacked(path) && l.Packed == "" {
				l.Packed = filepath.Join(dir, path)
			}
			l.Rest = append(l.Rest, path)
		}
	}
	return nil
}
