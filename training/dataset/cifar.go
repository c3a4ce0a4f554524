package dataset

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

var cifarClasses = []string{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}

const (
	cifarRecord  = 1 + 3*32*32 // a label, then red, green and blue planes
	cifarArchive = "cifar-10-binary.tar.gz"
)

// cifarFile tells whether a file of the binary version belongs to a split.
func cifarFile(name string, test bool) bool {
	if test {
		return name == "test_batch.bin"
	}
	return strings.HasPrefix(name, "data_batch_") && strings.HasSuffix(name, ".bin")
}

// openCIFAR finds CIFAR-10 (Krizhevsky 2009), 50,000 and 10,000 images, in its binary version or as shards.
func openCIFAR(o Options) (*Set, error) {
	var dirs []string
	for _, d := range dataDirs(o) {
		dirs = append(dirs, d, filepath.Join(d, "cifar10"), filepath.Join(d, "cifar-10-batches-bin"))
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			name := strings.ToLower(e.Name())
			switch {
			case name == cifarArchive:
				return openCIFARArchive(filepath.Join(dir, e.Name()), o)
			case cifarFile(name, o.Test), isShard(name) && filepath.Base(dir) == "cifar10":
				s, err := openFolder(dir, o)
				if err != nil {
					return nil, err
				}
				if len(s.classes) != len(cifarClasses) {
					s.Close()
					return nil, fmt.Errorf("%s: want the %d classes of CIFAR-10, it has %d", quote.Path(dir), len(cifarClasses), len(s.classes))
				}
				s.name, s.classes = "cifar10", cifarClasses
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("cifar10: no data_batch_*.bin, %s or cifar10 folder of shards in %s: get the binary version from https://www.cs.toronto.edu/~kriz/%s and put it into one of these folders, or give its path",
		cifarArchive, strings.Join(dirs, ", "), cifarArchive)
}

// openCIFARFiles reads files of records.
func openCIFARFiles(paths []string, o Options) (*Set, error) {
	slices.Sort(paths)
	t := &table{c: 3, h: 32, w: 32}
	for _, path := range paths {
		f, size, err := plainfile.Open(path)
		if err != nil {
			return nil, err
		}
		err = t.appendCIFAR(f, size)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
	}
	return newSet("cifar10", t, cifarClasses, o)
}

// appendCIFAR reads records to the end of r, which is said to have so many bytes.
func (t *table) appendCIFAR(r io.Reader, size int64) error {
	if more := size / cifarRecord; int64(len(t.labels))+more > maxRecords {
		return fmt.Errorf("it has %d records, after %d: at most %d are read: for larger sets write image files into a folder for each class", more, len(t.labels), maxRecords)
	}
	t.pixels = slices.Grow(t.pixels, int(size/cifarRecord)*(cifarRecord-1))
	buf, record := bufio.NewReaderSize(r, 64<<10), make([]byte, cifarRecord)
	for k := 0; ; k++ {
		n, err := io.ReadFull(buf, record)
		switch {
		case errors.Is(err, io.EOF) && k > 0:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("want a whole number of CIFAR-10 records of %d bytes, got %d and %d bytes", cifarRecord, k, n)
		case err != nil:
			return err
		case int(record[0]) >= len(cifarClasses):
			return fmt.Errorf("not a CIFAR-10 binary, or a damaged one: record %d has label %d, want 0 to 9", k, record[0])
		case len(t.labels) == maxRecords:
			return fmt.Errorf("at most %d records are read", maxRecords)
		}
		t.labels, t.pixels = append(t.labels, record[0]), append(t.pixels, record[1:]...)
	}
}

// holdsCIFAR tells whether an archive is the binary version of CIFAR-10, by the names of its first members.
func holdsCIFAR(file string) (bool, error) {
	f, err := openMaybeGzip(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	t := tar.NewReader(f)
	for range 4 {
		h, err := t.Next()
		if err != nil {
			return false, nil // whoever reads it all will say what is wrong
		}
		if base := path.Base(h.Name); cifarFile(base, false) || cifarFile(base, true) {
			return true, nil
		}
	}
	return false, nil
}

// openCIFARArchive reads a split out of the archive that CIFAR-10 comes in.
func openCIFARArchive(file string, o Options) (*Set, error) {
	f, err := openMaybeGzip(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	parts := map[string]*table{}
	var names []string
	records := int64(0)
	for m, err := range members(f, nil) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(file), err)
		}
		name := path.Base(m.name)
		if !cifarFile(name, o.Test) {
			continue
		}
		if parts[name] != nil {
			return nil, fmt.Errorf("%s: two members are named %s", quote.Path(file), quote.Text(name))
		}
		if records += m.size / cifarRecord; records > maxRecords {
			return nil, fmt.Errorf("%s: %s: %d records with those before: at most %d are read", quote.Path(file), quote.Text(name), records, maxRecords)
		}
		parts[name], names = &table{}, append(names, name)
		if err := parts[name].appendCIFAR(m, m.size); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", quote.Path(file), quote.Text(name), err)
		}
	}
	if names == nil {
		return nil, noSplit(file, o)
	}
	// In the order of the names, so that an image has the same number in the archive and in a folder.
	slices.Sort(names)
	t := &table{c: 3, h: 32, w: 32}
	for _, n := range names {
		t.labels, t.pixels = append(t.labels, parts[n].labels...), append(t.pixels, parts[n].pixels...)
		delete(parts, n)
	}
	return newSet("cifar10", t, cifarClasses, o)
}

// pythonCIFAR tells by a file's name (in lower case) whether it is of CIFAR's version for Python, which is made of pickles.
func pythonCIFAR(name string) bool {
	return strings.HasSuffix(name, "-python.tar.gz") && strings.HasPrefix(name, "cifar") || name == "cifar-10-batches-py" || name == "cifar-100-python" ||
		strings.HasPrefix(name, "data_batch_") && path.Ext(name) == ""
}

// cifar100 tells whether it is of CIFAR-100's binary version, whose records have two labels.
func cifar100(name string) bool {
	return name == "cifar-100-binary.tar.gz" || name == "cifar-100-binary"
}

// notBinaryCIFAR says which version is read.
func notBinaryCIFAR(file string) error {
	if cifar100(strings.ToLower(filepath.Base(file))) {
		return fmt.Errorf("%s: this is CIFAR-100, which is not read: write its images as files into a folder for each class", quote.Path(file))
	}
	return fmt.Errorf("%s: this is CIFAR's version for Python (pickles), which is not read: get the binary version of CIFAR-10 from https://www.cs.toronto.edu/~kriz/%s",
		quote.Path(file), cifarArchive)
}
