package dataset

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxInMemory limits sets that are held in memory, in bytes of pixels.
const maxInMemory = 8 << 30

var fashionClasses = []string{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}

// openFashion finds Fashion-MNIST (Xiao et al. 2017).
func openFashion(o Options) (Dataset, error) {
	stem := "train"
	if o.Test {
		stem = "t10k"
	}
	dirs := []string{"/usr/share/datasets/fashion-mnist", "fashion-mnist", "data/fashion-mnist"}
	if o.Dir != "" {
		dirs = append([]string{o.Dir, filepath.Join(o.Dir, "fashion-mnist")}, dirs...)
	}
	for _, dir := range dirs {
		for _, ext := range []string{".gz", ""} {
			path := filepath.Join(dir, stem+"-images-idx3-ubyte"+ext)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			d, err := openIDX(path)
			if err != nil {
				return nil, err
			}
			d.name = "fashion-mnist"
			if d.labels != nil {
				d.classes = fashionClasses
			}
			return reshape(d, o)
		}
	}
	return nil, fmt.Errorf("fashion-mnist: %s-images-idx3-ubyte.gz is not in %s: install it with `apt-get install dataset-fashion-mnist`, or name its folder with --data-dir",
		stem, strings.Join(dirs, ", "))
}

// openIDX reads a file of images in the IDX format of MNIST, and the labels' file beside it if there is one.
func openIDX(path string) (*memory, error) {
	dims, pixels, err := readIDX(path, 3)
	if err != nil {
		return nil, err
	}
	m := &memory{name: filepath.Base(path), c: 1, h: dims[1], w: dims[2], pixels: pixels}
	labels := strings.NewReplacer("-images", "-labels", "idx3", "idx1").Replace(filepath.Base(path))
	if labels == filepath.Base(path) {
		return m, nil
	}
	labels = filepath.Join(filepath.Dir(path), labels)
	if _, err := os.Stat(labels); err != nil {
		return m, nil
	}
	counts, values, err := readIDX(labels, 1)
	if err != nil {
		return nil, err
	}
	if counts[0] != dims[0] {
		return nil, fmt.Errorf("%s has %d labels for the %d images of %s", labels, counts[0], dims[0], path)
	}
	m.labels = values
	top := byte(0)
	for _, v := range values {
		top = max(top, v)
	}
	for i := range int(top) + 1 {
		m.classes = append(m.classes, fmt.Sprint(i))
	}
	return m, nil
}

func readIDX(path string, ndim int) ([]int, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	dims, data, err := parseIDX(f, ndim)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: not a valid IDX file of %d dimensions: %w", path, ndim, err)
	}
	return dims, data, nil
}

// parseIDX reads unsigned bytes: 0 0 8 ndim, the sizes as big-endian 32-bit numbers, then the elements; gzip or plain.
func parseIDX(in io.Reader, ndim int) ([]int, []byte, error) {
	r := bufio.NewReader(in)
	if magic, err := r.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		r = bufio.NewReader(z)
	}
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, nil, errors.New("it is shorter than its header")
	}
	if head[0] != 0 || head[1] != 0 || head[2] != 8 || int(head[3]) != ndim {
		return nil, nil, fmt.Errorf("it starts with % x, want 00 00 08 %02x", head, ndim)
	}
	dims, n := make([]int, ndim), 1
	for i := range dims {
		var v uint32
		if err := binary.Read(r, binary.BigEndian, &v); err != nil {
			return nil, nil, errors.New("it is shorter than its header")
		}
		dims[i] = int(v)
		if v == 0 || n > maxInMemory/int(v) || (i > 0 && v > 4096) {
			return nil, nil, fmt.Errorf("impossible sizes: dimension %d is %d", i, v)
		}
		n *= int(v)
	}
	// Grown as data comes: a header that promises more than the file holds must not make us allocate it.
	data, err := readLimited(r, int64(n))
	if err != nil || len(data) != n {
		return nil, nil, fmt.Errorf("its sizes %v need %d bytes, it holds %d (%v)", dims, n, len(data), errOr(err, "no more"))
	}
	return dims, data, nil
}

func errOr(err error, text string) string {
	if err != nil {
		return err.Error()
	}
	return text
}
