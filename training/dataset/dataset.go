// Package dataset reads images for training: the embedded emoji, IDX files, CIFAR-10 binaries, folders of images and
// WebDataset shards, behind one interface, and a loader that decodes beside training.
//
// It is plain Go and makes no tensors: a loader's goroutines hand over bytes.
package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Dataset is numbered images of one shape.
type Dataset interface {
	// Name says what it is, for logs.
	Name() string
	// Len is the number of images.
	Len() int
	// Shape is channels, height and width.
	Shape() (c, h, w int)
	// Classes are the classes' names, by label; empty without labels.
	Classes() []string
	// Read decodes image i into dst, which holds c·h·w bytes, channel by channel, and returns its label, -1 without
	// labels. It may be called from several goroutines at once.
	Read(i int, dst []byte) (label int, err error)
}

// Options say how images are brought into one shape.
type Options struct {
	Resolution int    // height and width in pixels; 0: those of the images, which must then agree
	Channels   int    // 1 grey, 3 colour; 0: the data's own, and 3 for image files
	Test       bool   // the test split, where there is one
	Dir        string // where named sets are looked for before the usual places
}

// CorruptError is an image that cannot be decoded.
type CorruptError struct {
	Name string // the file, and the member of an archive
	Err  error
}

// Error names the image and what is wrong with it.
func (e *CorruptError) Error() string { return fmt.Sprintf("corrupt image %s: %v", e.Name, e.Err) }

// Unwrap returns what is wrong.
func (e *CorruptError) Unwrap() error { return e.Err }

// Open opens a set by name (emoji, fashion-mnist, cifar10) or by path: a folder of images (subfolders are classes), a folder
// of CIFAR-10 binaries or of shards, an IDX file of images (the labels' file is found beside it), a data_batch file, or a
// .tar or .tar.gz shard (a pattern such as "train-*.tar.gz" for several).
func Open(spec string, o Options) (Dataset, error) {
	if o.Resolution < 0 || o.Resolution > 4096 {
		return nil, fmt.Errorf("data: resolution: want 1 to 4096 pixels, got %d", o.Resolution)
	}
	if o.Channels != 0 && o.Channels != 1 && o.Channels != 3 {
		return nil, fmt.Errorf("data: channels: want 1 (grey) or 3 (colour), got %d", o.Channels)
	}
	d, err := open(spec, o)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("data: %s holds no images", spec)
	}
	return d, nil
}

func open(spec string, o Options) (Dataset, error) {
	switch spec {
	case "":
		return nil, errors.New("want emoji, fashion-mnist, cifar10 or a path, got nothing")
	case "emoji":
		d, err := openEmoji()
		if err != nil {
			return nil, err
		}
		return reshape(d, o)
	case "fashion-mnist":
		return openFashion(o)
	case "cifar10":
		return openCIFAR(o)
	}
	if strings.ContainsAny(spec, "*?[") {
		files, err := filepath.Glob(spec)
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("%s: no such files", spec)
		}
		return openShards(files, o)
	}
	st, err := os.Stat(spec)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file or folder (and not one of emoji, fashion-mnist, cifar10)", spec)
	}
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return openFolder(spec, o)
	}
	return openFile(spec, o)
}

func openFile(path string, o Options) (Dataset, error) {
	base := strings.ToLower(filepath.Base(path))
	switch {
	case isShard(base):
		return openShards([]string{path}, o)
	case strings.Contains(base, "idx3") || strings.Contains(base, "-images"):
		d, err := openIDX(path)
		if err != nil {
			return nil, err
		}
		return reshape(d, o)
	case strings.HasSuffix(base, ".bin"):
		d, err := openCIFARFiles([]string{path})
		if err != nil {
			return nil, err
		}
		return reshape(d, o)
	}
	return nil, fmt.Errorf("%s: want a folder, an IDX file of images, a CIFAR-10 .bin file, or a .tar or .tar.gz shard", path)
}

// openFolder looks at what a folder holds: CIFAR-10 binaries, shards, or images.
func openFolder(dir string, o Options) (Dataset, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var bins, shards []string
	for _, e := range entries {
		name := strings.ToLower(e.Name())
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
		case cifarFile(name, o.Test):
			bins = append(bins, path)
		case isShard(name):
			shards = append(shards, path)
		}
	}
	if bins != nil {
		d, err := openCIFARFiles(bins)
		if err != nil {
			return nil, err
		}
		return reshape(d, o)
	}
	if shards != nil {
		return openShards(bySplit(shards, o.Test), o)
	}
	return openImages(dir, o)
}

// bySplit keeps the files of one split when their names tell (train-00.tar, test-00.tar).
func bySplit(files []string, test bool) []string {
	want := "train"
	if test {
		want = "test"
	}
	var of []string
	for _, f := range files {
		if strings.Contains(strings.ToLower(filepath.Base(f)), want) {
			of = append(of, f)
		}
	}
	if of == nil {
		return files
	}
	return of
}

func isShard(name string) bool {
	return strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// memory is a set whose pixels are all in memory.
type memory struct {
	name    string
	c, h, w int
	pixels  []byte
	labels  []byte // nil: none
	classes []string
}

func (m *memory) Name() string           { return m.name }
func (m *memory) Len() int               { return len(m.pixels) / (m.c * m.h * m.w) }
func (m *memory) Shape() (int, int, int) { return m.c, m.h, m.w }
func (m *memory) Classes() []string      { return m.classes }
func (m *memory) Read(i int, dst []byte) (int, error) {
	n := m.c * m.h * m.w
	copy(dst, m.pixels[i*n:(i+1)*n])
	if m.labels == nil {
		return -1, nil
	}
	return int(m.labels[i]), nil
}
