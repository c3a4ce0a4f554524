package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
)

var fashionClasses = []string{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}

// openFashion looks for Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of garments, 28×28, grey.
func openFashion(o Options) (*Set, error) {
	stem := "train"
	if o.Test {
		stem = "t10k"
	}
	var dirs []string
	for _, d := range dataDirs(o) {
		dirs = append(dirs, d, filepath.Join(d, "fashion-mnist"), filepath.Join(d, "FashionMNIST", "raw"))
	}
	for _, dir := range dirs {
		for _, ext := range []string{".gz", ""} {
			path := filepath.Join(dir, stem+"-images-idx3-ubyte"+ext)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return openIDX("fashion-mnist", path, fashionClasses, o)
		}
	}
	return nil, fmt.Errorf("fashion-mnist: no %s-images-idx3-ubyte(.gz) in %s: install it with `apt-get install dataset-fashion-mnist`, or pass the directory with its four files",
		stem, strings.Join(quote.Texts(dirs), ", "))
}

// idxFile reports whether a file name, in lower case, is that of a split's images, as in MNIST and similar datasets.
func idxFile(name string, test bool) bool {
	images := strings.Contains(name, "images") && strings.Contains(name, "idx3")
	return images && test == (strings.Contains(name, "t10k") || strings.Contains(name, "test"))
}

// looksLikeIDX reports whether a file, gzipped or not, begins like an IDX file.
func looksLikeIDX(path string) (bool, error) {
	f, err := archive.OpenGzip(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var head [4]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return false, nil
	}
	return head[0] == 0 && head[1] == 0 && head[2] >= 8 && head[2] <= 14 && head[3] >= 1 && head[3] <= 8, nil
}

// openIDX reads a file of images in MNIST's IDX format, and the file of labels in the same directory if there is one.
func openIDX(name, path string, classes []string, o Options) (*Set, error) {
	t, err := openIDXImages(path)
	if err != nil {
		return nil, err
	}
	classes, note, err := t.idxLabels(name, path, classes)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	s, err := newSet(name, t, classes, o)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if note != "" {
		s.note("%s", note)
	}
	if strings.HasPrefix(base(path), "emnist-") {
		s.note("EMNIST's images are transposed (rows and columns exchanged) and are used as stored, so generated images are transposed, too")
	}
	return s, nil
}

// openIDXImages reads gzipped images into memory; others stay in the file.
func openIDXImages(path string) (_ *table, err error) {
	f, err := archive.OpenGzip(path)
	if err != nil {
		return nil, err
	}
	in := stored{file: f.File}
	defer func() {
		if err != nil || in.bytes == 0 {
			f.Close()
		}
	}()
	dims, err := parseIDXHead(f, f.Size, 3)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	t := &table{format: "IDX", c: 1, h: dims[1], w: dims[2]}
	if f.Size >= 0 {
		in.at = int64(idxHead(3))
		in.bytes = f.Size - in.at
		t.stored = &in
		return t, nil
	}
	if t.pixels, err = readIDXData(f, dims); err != nil { // gzipped
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return t, nil
}

// idxLabels reads the file of labels for a file of images, if there is one, and returns the class names, and a note on them or "".
func (t *table) idxLabels(name, images string, classes []string) (_ []string, note string, err error) {
	path := labelsBeside(images)
	if path == "" {
		return nil, "", nil
	}
	f, err := archive.OpenGzip(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	dims, err := parseIDXHead(f, f.Size, 1)
	if err == nil && dims[0] != t.Len() {
		err = fmt.Errorf("%d labels for the %d images of %s", dims[0], t.Len(), quote.Path(images))
	}
	if err == nil {
		t.labels, err = readIDXData(f, dims)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if top := int(slices.Max(t.labels)); top >= len(classes) {
		if classes != nil {
			return nil, "", fmt.Errorf("%s: label %d is out of range: %s has %d classes", quote.Path(path), top, quote.Path(name), len(classes))
		}
		classes, note = t.idxClasses(images, top)
	}
	return classes, note, nil
}

// labelsBeside returns the path of the file of labels for a file of images; "" if there is none.
func labelsBeside(images string) string {
	dir, name := filepath.Split(images)
	labels := strings.NewReplacer("images", "labels", "idx3", "idx1").Replace(name)
	if labels == name {
		return ""
	}
	plain := strings.TrimSuffix(labels, ".gz")
	for _, l := range []string{labels, plain, plain + ".gz"} {
		if st, err := os.Stat(dir + l); err == nil && !st.IsDir() {
			return dir + l
		}
	}
	return ""
}

// idxHead is the size of the header in bytes.
func idxHead(ndim int) int { return 4 + 4*ndim }

// parseIDXHead reads the header of a file of unsigned bytes: 0 0 8 ndim, and the sizes as big-endian 32-bit integers. size is the file's
// size in bytes, which must be that of header and elements, or -1 if it is unknown.
func parseIDXHead(r io.Reader, size int64, ndim int) ([]int, error) {
	head := make([]byte, idxHead(ndim))
	n, err := io.ReadFull(r, head)
	if want := []byte{0, 0, 8, byte(ndim)}; n >= 4 && !slices.Equal(head[:4], want) {
		return nil, fmt.Errorf("want an IDX file with %d dimensions of unsigned bytes, which begins with % x; this file begins with % x", ndim, want, head[:4])
	}
	if err != nil {
		return nil, fmt.Errorf("want an IDX header of %d bytes, got %d: %w", len(head), n, archive.NoEOF(err))
	}
	dims, total := make([]int, ndim), uint64(1)
	for i := range dims {
		v := binary.BigEndian.Uint32(head[4+4*i:])
		most := uint32(maxResolution)
		if i == 0 {
			most = maxImages
		}
		if total *= uint64(v); v == 0 || v > most || total > archive.MaxMemory { // no factor has over 24 bits, and the product before it 32
			return nil, fmt.Errorf("dimension %d of %d is %d: want at least 1, at most %d images of %d pixels a side, and at most %d GiB in all", i, ndim, v, maxImages, maxResolution, archive.MaxMemory>>30)
		}
		dims[i] = int(v)
	}
	if want := int64(len(head)) + int64(total); size >= 0 && size != want {
		return nil, fmt.Errorf("the shape %v needs a file of %d bytes, it has %d", dims, want, size)
	}
	return dims, nil
}

// readIDXData reads the elements, which must end the file.
func readIDXData(f *archive.Gzip, dims []int) ([]byte, error) {
	total := int64(1)
	for _, n := range dims {
		total *= int64(n)
	}
	if err := f.Promises(total); err != nil {
		return nil, err
	}
	data, err := archive.ReadExactly(f, total)
	if err != nil {
		return nil, fmt.Errorf("the shape %v needs %d bytes, the file has %d: %w", dims, total, len(data), err)
	}
	// Reading one more byte makes gzip compare its checksum.
	if _, err := io.ReadFull(f, make([]byte, 1)); err == nil {
		return nil, fmt.Errorf("the shape %v needs %d bytes, the file has more", dims, total)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data, nil
}
