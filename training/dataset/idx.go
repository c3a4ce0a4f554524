package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var fashionClasses = []string{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}

// openFashion finds Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 garments, 28×28 grey.
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
	return nil, fmt.Errorf("fashion-mnist: no %s-images-idx3-ubyte(.gz) in %s: install it with `apt-get install dataset-fashion-mnist`, or give the folder that holds its four files",
		stem, strings.Join(dirs, ", "))
}

// idxFile tells whether a file's name (in lower case) is that of a split's images, as MNIST and its kin name them.
func idxFile(name string, test bool) bool {
	images := strings.Contains(name, "images") && strings.Contains(name, "idx3")
	return images && test == (strings.Contains(name, "t10k") || strings.Contains(name, "test"))
}

// looksLikeIDX tells whether a file, gzipped or not, begins as an IDX file of several dimensions does.
func looksLikeIDX(path string) (bool, error) {
	f, err := openMaybeGzip(path)
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

// openIDX reads a file of images in the IDX format of MNIST, and the labels' file beside it if there is one.
func openIDX(name, path string, classes []string, o Options) (*Set, error) {
	dims, pixels, err := readIDX(path, 3)
	if err != nil {
		return nil, err
	}
	t := &table{c: 1, h: dims[1], w: dims[2], pixels: pixels}
	labels := labelsBeside(path)
	if labels == "" {
		return newSet(name, t, nil, o)
	}
	counts, values, err := readIDX(labels, 1)
	if err != nil {
		return nil, err
	}
	if counts[0] != dims[0] {
		return nil, fmt.Errorf("%s has %d labels for the %d images of %s", labels, counts[0], dims[0], path)
	}
	t.labels = values
	if top := int(slices.Max(values)); top >= len(classes) {
		if classes != nil {
			return nil, fmt.Errorf("%s: label %d is out of range: %s has %d classes", labels, top, name, len(classes))
		}
		classes = numbered(top + 1)
	}
	return newSet(name, t, classes, o)
}

// labelsBeside returns the file that goes with a file of images, "" if there is none.
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

func readIDX(path string, ndim int) ([]int, []byte, error) {
	f, err := openMaybeGzip(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	dims, data, err := parseIDX(f, f.size, ndim)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return dims, data, nil
}

// parseIDX reads unsigned bytes: 0 0 8 ndim, the sizes as big-endian 32-bit numbers, then the elements, and nothing more.
// size is the length of r if that is known, else -1.
func parseIDX(r io.Reader, size int64, ndim int) ([]int, []byte, error) {
	head := make([]byte, 4+4*ndim)
	n, err := io.ReadFull(r, head)
	if want := []byte{0, 0, 8, byte(ndim)}; n >= 4 && !slices.Equal(head[:4], want) {
		return nil, nil, fmt.Errorf("want an IDX file of %d dimensions of unsigned bytes, which begins with % x; it begins with % x", ndim, want, head[:4])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("want an IDX header of %d bytes, got %d: %w", len(head), n, noEOF(err))
	}
	dims, total := make([]int, ndim), uint64(1)
	for i := range dims {
		v := binary.BigEndian.Uint32(head[4+4*i:])
		over, product := bits.Mul64(total, uint64(v))
		if v == 0 || over != 0 || product > maxMemory || (i > 0 && v > maxResolution) {
			return nil, nil, fmt.Errorf("impossible sizes: dimension %d of %d is %d (want at least 1, images of at most %d pixels a side, and %d GiB in all)", i, ndim, v, maxResolution, maxMemory>>30)
		}
		dims[i], total = int(v), product
	}
	if want := int64(len(head)) + int64(total); size >= 0 && size != want {
		return nil, nil, fmt.Errorf("sizes %v need a file of %d bytes, it has %d", dims, want, size)
	}
	data, err := readExactly(r, int64(total))
	if err != nil {
		return nil, nil, fmt.Errorf("sizes %v need %d bytes, it has %d: %w", dims, total, len(data), err)
	}
	// One byte more makes gzip compare its checksum.
	if _, err := io.ReadFull(r, head[:1]); err == nil {
		return nil, nil, fmt.Errorf("sizes %v need %d bytes, it has more", dims, total)
	} else if !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	return dims, data, nil
}
