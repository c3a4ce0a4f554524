package dataset

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

var cifarClasses = []string{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}

// cifarPixels is the number of bytes of an image: a red, a green and a blue plane.
const cifarPixels = 3 * 32 * 32

// cifar is a version of CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images.
type cifar struct {
	set     string   // the dataset's name
	folder  string   // directory that the archive unpacks to
	archive string   // file name of the archive, as published
	python  bool     // whether files are pickles
	classes []string // class names to use without a file of names; nil: the labels' numbers
	n       int      // number of classes
	labels  int      // bytes of labels in a binary record; the last one is used
	key     string   // key of the labels in a pickle
	names   string   // file with the class names
	nameKey string   // key of the names, if that file is a pickle
	part    func(name string) split
}

// split is the split that a file belongs to.
type split byte

const (
	neither split = iota
	train
	test
)

var cifars = []*cifar{
	{
		set: "cifar10", folder: "cifar-10-batches-bin", archive: "cifar-10-binary.tar.gz", classes: cifarClasses, n: 10, labels: 1, names: "batches.meta.txt",
		part: batches("data_batch_", ".bin", "test_batch.bin"),
	},
	{
		set: "cifar10", folder: "cifar-10-batches-py", archive: "cifar-10-python.tar.gz", python: true, classes: cifarClasses, n: 10, key: "labels",
		names: "batches.meta", nameKey: "label_names", part: batches("data_batch_", "", "test_batch"),
	},
	{
		set: "cifar100", folder: "cifar-100-binary", archive: "cifar-100-binary.tar.gz", n: 100, labels: 2, names: "fine_label_names.txt",
		part: batches("train", ".bin", "test.bin"),
	},
	{
		set: "cifar100", folder: "cifar-100-python", archive: "cifar-100-python.tar.gz", python: true, n: 100, key: "fine_labels", names: "meta",
		nameKey: "fine_label_names", part: batches("train", "", "test"),
	},
}

// batches returns a function from a file's name to its split. A file of the training split is named prefix + ext, with digits in between if
// prefix ends in _.
func batches(prefix, ext, testing string) func(string) split {
	return func(name string) split {
		if name == testing {
			return test
		}
		if middle, ok := between(name, prefix, ext); ok && strings.HasSuffix(prefix, "_") == (middle != "") && strings.Trim(middle, "0123456789") == "" {
			return train
		}
		return neither
	}
}

// between returns the part of name between prefix and suffix; ok is false if name lacks one of them.
func between(name, prefix, suffix string) (string, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, suffix)
}

// wanted is the requested split.
func (o Options) wanted() split {
	if o.Test {
		return test
	}
	return train
}

// format is the version's name for people.
func (v *cifar) format() string {
	name := map[string]string{"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[v.set]
	if v.python {
		return name + ", Python version"
	}
	return name + ", binary version"
}

// record is the length of a binary record in bytes.
func (v *cifar) record() int { return v.labels + cifarPixels }

// holds reports whether a file with a name of this version can be one, by its size and first bytes, since names such as train and test.bin
// are common. size is -1 if it is unknown.
func (v *cifar) holds(size int64, head []byte) bool {
	switch {
	case v.python:
		return len(head) > 1 && head[0] == 0x80 && head[1] <= 5
	case v.set == "cifar10":
		return true // these names are distinctive
	}
	return size < 0 || size > 0 && size%int64(v.record()) == 0
}

// cifarFile finds the version that a file belongs to by its name, size and first bytes; nil: none.
func cifarFile(file string) (*cifar, split) {
	for _, v := range cifars {
		if part := v.part(base(file)); part != neither && v.mayBe(file) {
			return v, part
		}
	}
	return nil, neither
}

// binaryCIFAR determines the version of a binary file from its size: CIFAR-10, unless only CIFAR-100 fits.
func binaryCIFAR(file string) *cifar {
	st, err := os.Stat(file)
	if hundred := cifars[2]; err == nil && st.Size() > 0 && st.Size()%int64(cifars[0].record()) != 0 && st.Size()%int64(hundred.record()) == 0 {
		return hundred
	}
	return cifars[0]
}

// mayBe calls holds for a file on disk.
func (v *cifar) mayBe(file string) bool {
	f, size, err := plainfile.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [2]byte
	n, _ := io.ReadFull(f, head[:])
	return v.holds(size, head[:n])
}

// openCIFAR looks for a dataset in any of its versions, or as shards in a directory with the dataset's name.
func openCIFAR(set string, o Options) (*Set, error) {
	var versions []*cifar
	for _, v := range cifars {
		if v.set == set {
			versions = append(versions, v)
		}
	}
	var dirs []string
	for _, d := range dataDirs(o) {
		dirs = append(dirs, d, filepath.Join(d, set))
		for _, v := range versions {
			dirs = append(dirs, filepath.Join(d, v.folder))
		}
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			file, name := filepath.Join(dir, e.Name()), strings.ToLower(e.Name())
			for _, v := range versions {
				switch {
				case name == v.archive:
					return v.openArchive(file, o)
				case v.part(name) == o.wanted() && v.mayBe(file):
					return v.openFolder(dir, o)
				}
			}
			if archive.IsShard(name) && filepath.Base(dir) == set {
				return openCIFARShards(dir, versions[0], o)
			}
		}
	}
	//quote: set is one of two words
	return nil, fmt.Errorf("%s: no %s, %s, directory %s or %s, or directory %s of shards in %s: download %s from https://www.cs.toronto.edu/~kriz/%s into one of these directories, or pass its path",
		set, versions[0].archive, versions[1].archive, versions[0].folder, versions[1].folder, set, strings.Join(quote.Texts(dirs), ", "), versions[0].archive, versions[0].archive)
}

func openCIFARShards(dir string, v *cifar, o Options) (*Set, error) {
	s, err := openFolder(dir, o)
	if err != nil {
		return nil, err
	}
	if len(s.classes) != v.n {
		s.Close()
		return nil, fmt.Errorf("%s: the shards have %d classes, want the %d of %s", quote.Path(dir), len(s.classes), v.n, v.set)
	}
	s.name = v.set
	if v.classes != nil {
		s.classes = v.classes
	}
	return s, nil
}

// openFolder reads the files of a split in a directory.
func (v *cifar) openFolder(dir string, o Options) (*Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if file := filepath.Join(dir, e.Name()); v.part(strings.ToLower(e.Name())) == o.wanted() && v.mayBe(file) {
			files = append(files, file)
		}
	}
	if files == nil {
		return nil, noSplit(dir, o)
	}
	return v.openFiles(files, o)
}

// openFiles reads files of one version in one directory.
func (v *cifar) openFiles(files []string, o Options) (*Set, error) {
	slices.Sort(files)
	t := &table{format: v.format(), c: 3, h: 32, w: 32}
	for _, file := range files {
		if err := fromFile(file, func(r io.Reader, size int64) error { return v.append(t, r, size) }); err != nil {
			return nil, err
		}
	}
	var names []string
	file := filepath.Join(filepath.Dir(files[0]), v.names)
	if _, err := os.Stat(file); err == nil {
		err := fromFile(file, func(r io.Reader, _ int64) (err error) {
			names, err = v.classNames(r)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return v.newSet(t, names, o)
}

// fromFile reads a plain file.
func fromFile(file string, read func(r io.Reader, size int64) error) error {
	f, size, err := plainfile.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f, size); err != nil {
		return fmt.Errorf("%s: %w", quote.Path(file), err)
	}
	return nil
}

// newSet makes a set of the images in t. names are the class names from a file; nil: there is no such file.
func (v *cifar) newSet(t *table, names []string, o Options) (*Set, error) {
	classes, note := v.classes, ""
	switch {
	case len(names) == v.n:
		classes = names
	case names != nil:
		note = fmt.Sprintf("%s has %d class names for %d classes: its names are ignored", v.names, len(names), v.n)
	case classes == nil:
		note = fmt.Sprintf("there is no file %s: class names are the labels' numbers", v.names)
	}
	if classes == nil {
		classes = numbered(v.n)
	}
	s, err := newSet(v.set, t, classes, o)
	if err != nil {
		return nil, err
	}
	if v.set == "cifar100" {
		s.note("the %d fine classes of CIFAR-100 are used, not the 20 coarse ones", v.n)
	}
	if note != "" {
		s.note("%s", note)
	}
	return s, nil
}

// append reads a file of images. size is its claimed size in bytes.
func (v *cifar) append(t *table, r io.Reader, size int64) error {
	if v.python {
		return v.appendPickle(t, r, size)
	}
	more := size / int64(v.record())
	if err := fitsRecords(len(t.labels), more); err != nil {
		return err
	}
	t.pixels = slices.Grow(t.pixels, int(more)*cifarPixels)
	buf, record := bufio.NewReaderSize(r, 64<<10), make([]byte, v.record())
	for k := 0; ; k++ {
		n, err := io.ReadFull(buf, record)
		label := record[v.labels-1]
		switch {
		case errors.Is(err, io.EOF) && k > 0:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("want a whole number of %s records of %d bytes, got %d records and %d bytes", v.set, v.record(), k, n)
		case err != nil:
			return err
		case int(label) >= v.n:
			return fmt.Errorf("not a %s binary file, or damaged: record %d has label %d, want 0 to %d", v.set, k, label, v.n-1)
		case len(t.labels) == maxRecords:
			return fmt.Errorf("more than %d records, the limit", maxRecords)
		}
		t.labels, t.pixels = append(t.labels, label), append(t.pixels, record[v.labels:]...)
	}
}

// fitsRecords returns an error if more records, after those already read, exceed the limit.
func fitsRecords(read int, more int64) error {
	if int64(read)+more > maxRecords {
		return fmt.Errorf("%d records, after %d in other files, are more than the limit of %d: for a larger dataset write image files into one directory per class", more, read, maxRecords)
	}
	return nil
}

// classNames reads the file with the class names.
func (v *cifar) classNames(r io.Reader) ([]string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxText+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxText:
		return nil, fmt.Errorf("larger than %d KiB, the limit for the names of %d classes", maxText>>10, v.n)
	case v.python:
		return v.pickledNames(data)
	}
	names := []string{}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, line)
		}
	}
	return names, nil
}

// cifarNamed finds the version whose archive is called name; nil: none.
func cifarNamed(name string) *cifar {
	for _, v := range cifars {
		if name == v.archive {
			return v
		}
	}
	return nil
}

// cifarArchive determines the version in an archive from the names of its first members; nil: none.
func cifarArchive(file string) (*cifar, error) {
	if v := cifarNamed(base(file)); v != nil {
		return v, nil
	}
	f, err := archive.OpenGzip(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := tar.NewReader(f)
	for range 8 {
		h, err := t.Next()
		if err != nil {
			return nil, nil // reading the whole archive reports the error
		}
		for _, v := range cifars {
			if h.Typeflag != tar.TypeReg || v.part(path.Base(h.Name)) == neither {
				continue
			}
			var head [2]byte
			if n, _ := io.ReadFull(t, head[:]); v.holds(h.Size, head[:n]) {
				return v, nil
			}
			break
		}
	}
	return nil, nil
}

// openArchive reads a split from the archive of a version.
func (v *cifar) openArchive(file string, o Options) (*Set, error) {
	f, err := archive.OpenGzip(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	parts := map[string]*table{}
	var names []string
	records := 0
	for m, err := range archive.Members(f, nil) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(file), err)
		}
		name := path.Base(m.Name)
		if imagefile.Hidden(name) || v.part(name) != o.wanted() && name != v.names {
			continue
		}
		fail := func(err error) (*Set, error) {
			return nil, fmt.Errorf("%s: %s: %w", quote.Path(file), quote.Text(m.Name), err)
		}
		switch {
		case m.Link != "":
			return fail(m.Refused())
		case name == v.names:
			if names, err = v.classNames(m); err != nil {
				return fail(err)
			}
			continue
		case parts[name] != nil:
			return fail(errors.New("two members have this name"))
		}
		if !v.python {
			if err := fitsRecords(records, m.Size/int64(v.record())); err != nil {
				return fail(err)
			}
		}
		t := &table{}
		if err := v.append(t, m, m.Size); err != nil {
			return fail(err)
		}
		if records += len(t.labels); records > maxRecords {
			return fail(fitsRecords(records-len(t.labels), int64(len(t.labels))))
		}
		parts[name] = t
	}
	if len(parts) == 0 {
		return nil, noSplit(file, o)
	}
	// In the order of the names, so that an image has the same index in the archive and in a directory.
	t := &table{format: v.format(), c: 3, h: 32, w: 32, pixels: make([]byte, 0, records*cifarPixels)}
	for _, n := range slices.Sorted(maps.Keys(parts)) {
		t.labels, t.pixels = append(t.labels, parts[n].labels...), append(t.pixels, parts[n].pixels...)
		delete(parts, n)
	}
	return v.newSet(t, names, o)
}
