package dataset

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var cifarClasses = []string{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}

const cifarRecord = 1 + 3*32*32

// cifarFile tells whether a file of the binary version belongs to a split.
func cifarFile(name string, test bool) bool {
	if test {
		return name == "test_batch.bin"
	}
	return strings.HasPrefix(name, "data_batch_") && strings.HasSuffix(name, ".bin")
}

// openCIFAR finds CIFAR-10 (Krizhevsky 2009) in its binary version, or as shards.
func openCIFAR(o Options) (Dataset, error) {
	dirs := []string{"cifar-10-batches-bin", "cifar10", "data/cifar-10-batches-bin", "data/cifar10", "data"}
	if o.Dir != "" {
		dirs = append([]string{o.Dir, filepath.Join(o.Dir, "cifar-10-batches-bin"), filepath.Join(o.Dir, "cifar10")}, dirs...)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		var bins, shards []string
		for _, e := range entries {
			name, path := strings.ToLower(e.Name()), filepath.Join(dir, e.Name())
			switch {
			case cifarFile(name, o.Test):
				bins = append(bins, path)
			case name == "cifar-10-binary.tar.gz":
				d, err := openCIFARArchive(path, o.Test)
				if err != nil {
					return nil, err
				}
				return reshape(d, o)
			case isShard(name):
				shards = append(shards, path)
			}
		}
		switch {
		case bins != nil:
			d, err := openCIFARFiles(bins)
			if err != nil {
				return nil, err
			}
			return reshape(d, o)
		case shards != nil:
			d, err := openShards(bySplit(shards, o.Test), o)
			if err != nil {
				return nil, err
			}
			if s, ok := d.(*shardSet); ok && len(s.classes) == len(cifarClasses) {
				s.name, s.classes = "cifar10", cifarClasses
			}
			return d, nil
		}
	}
	return nil, fmt.Errorf("cifar10: no data_batch_*.bin, cifar-10-binary.tar.gz or shards in %s: get the binary version from the data set's page and name its folder with --data-dir", strings.Join(dirs, ", "))
}

func newCIFAR() *memory { return &memory{name: "cifar10", c: 3, h: 32, w: 32, classes: cifarClasses} }

// openCIFARFiles reads records of a label and 3,072 bytes of planes.
func openCIFARFiles(paths []string) (*memory, error) {
	slices.Sort(paths)
	m := newCIFAR()
	for _, path := range paths {
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if st.Size() > maxInMemory {
			return nil, fmt.Errorf("%s: %d bytes is too large for a CIFAR-10 file", path, st.Size())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := m.appendCIFAR(data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return m, nil
}

func (m *memory) appendCIFAR(data []byte) error {
	if len(data) == 0 || len(data)%cifarRecord != 0 {
		return fmt.Errorf("not a CIFAR-10 binary: want a whole number of records of %d bytes, got %d bytes", cifarRecord, len(data))
	}
	for i := 0; i < len(data); i += cifarRecord {
		if int(data[i]) >= len(cifarClasses) {
			return fmt.Errorf("not a CIFAR-10 binary: record %d has label %d, want 0 to 9", i/cifarRecord, data[i])
		}
		m.labels = append(m.labels, data[i])
		m.pixels = append(m.pixels, data[i+1:i+cifarRecord]...)
	}
	return nil
}

func openCIFARArchive(path string, test bool) (*memory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m := newCIFAR()
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !cifarFile(filepath.Base(h.Name), test) {
			continue
		}
		data, err := readLimited(t, 100<<20)
		if err == nil {
			err = m.appendCIFAR(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, h.Name, err)
		}
	}
	return m, nil
}
