package dataset

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/internal/archive"
)

// goldenPixels are those of scripts/golden/training/dataset/cifar.py: of image i of a file whose first pixel is first.
func goldenPixels(i, first int) []byte {
	px := make([]byte, cifarPixels)
	for j := range px {
		px[j] = byte(31*i + 7*j + first)
	}
	return px
}

// unpackTar writes an archive's files into a folder.
func unpackTar(t *testing.T, file, dir string) {
	f, err := archive.OpenGzip(file)
	require.NoError(t, err)
	defer f.Close()
	for m, err := range archive.Members(f, nil) {
		require.NoError(t, err)
		data, err := io.ReadAll(m)
		require.NoError(t, err)
		write(t, dir, m.Name, data)
	}
}

// CIFAR-10's version for Python gives the same images from its archive, from the folder that it unpacks to, from the folder around that,
// and by name. The files are as Python 2 wrote them.
func TestCIFARPython(t *testing.T) {
	archive := filepath.Join("testdata", "cifar", "cifar-10-python.tar.gz")
	dir := t.TempDir()
	unpackTar(t, archive, dir)
	t.Setenv("HOME", t.TempDir())
	named := t.TempDir()
	write(t, named, "cifar-10-python.tar.gz", read(t, archive))
	renamed := write(t, t.TempDir(), "data.tar.gz", read(t, archive))
	for _, c := range []struct{ spec, dir string }{
		{archive, ""}, {renamed, ""}, {filepath.Join(dir, "cifar-10-batches-py"), ""}, {dir, ""}, {named, ""}, {"cifar10", named}, {"cifar10", dir},
	} {
		s := opened(t, c.spec, Options{Dir: c.dir})
		require.Equal(t, cifarClasses, s.Classes(), c.spec)
		require.Empty(t, s.Notices(), c.spec)
		require.Equal(t, 5, s.Len(), c.spec)
		for k, want := range []struct{ label, i, first int }{{3, 0, 10}, {0, 1, 10}, {8, 2, 10}, {6, 0, 100}, {9, 1, 100}} { // data_batch_1 goes first
			px, label := at(t, s, k)
			require.Equal(t, want.label, label, c.spec)
			require.Equal(t, goldenPixels(want.i, want.first), px, c.spec)
		}
		s = opened(t, c.spec, Options{Dir: c.dir, Test: true})
		px, label := at(t, s, 0)
		require.Equal(t, 1, s.Len(), c.spec)
		require.Equal(t, 5, label, c.spec)
		require.Equal(t, goldenPixels(0, 200), px, c.spec)
	}
	one := opened(t, filepath.Join(dir, "cifar-10-batches-py", "data_batch_2"), Options{})
	require.Equal(t, 2, one.Len(), "one of the files")
	require.Equal(t, cifarClasses, one.Classes())
}

// CIFAR-100 is read with its fine labels, and says so; its files here are of Python 3, in protocols 2, 4 and 5, with keys that are
// strings and bytes.
func TestCIFAR100(t *testing.T) {
	dir := filepath.Join("testdata", "cifar", "cifar-100-python")
	s := opened(t, dir, Options{})
	require.Equal(t, "cifar100", s.Name())
	require.Len(t, s.Classes(), 100)
	require.Equal(t, "fine 99", s.Classes()[99])
	require.Contains(t, strings.Join(s.Notices(), "\n"), "20 coarse")
	px, label := at(t, s, 1)
	require.Equal(t, 7, label)
	require.Equal(t, goldenPixels(1, 1), px)
	px, label = at(t, opened(t, dir, Options{Test: true}), 0)
	require.Equal(t, 42, label)
	require.Equal(t, goldenPixels(0, 2), px)
	around := opened(t, filepath.Dir(dir), Options{})
	require.Equal(t, "cifar10", around.Name(), "of the archive beside it, since a folder is looked into last")

	five := t.TempDir()
	write(t, five, "data_batch_1", read(t, filepath.Join("testdata", "cifar", "protocol5")))
	px, label = at(t, opened(t, five, Options{}), 0)
	require.Equal(t, 4, label)
	require.Equal(t, goldenPixels(0, 3), px)

	// The binary version: coarse label, fine label, pixels.
	record := func(coarse, fine byte) []byte {
		return append([]byte{coarse, fine}, bytes.Repeat([]byte{fine}, cifarPixels)...)
	}
	train, test := append(record(1, 99), record(19, 0)...), record(2, 50)
	var names []string
	for k := range 100 {
		names = append(names, fmt.Sprint("class ", k))
	}
	text := []byte(strings.Join(names, "\n") + "\n\n")
	binary := t.TempDir()
	path := write(t, binary, "cifar-100-binary/train.bin", train)
	write(t, binary, "cifar-100-binary/test.bin", test)
	bare := opened(t, path, Options{})
	first, labels := values(t, bare)
	require.Equal(t, []int{99, 0}, first)
	require.Equal(t, []int{99, 0}, labels)
	require.Equal(t, "42", bare.Classes()[42])
	require.Contains(t, strings.Join(bare.Notices(), "\n"), "fine_label_names.txt", "classes without names")
	write(t, binary, "cifar-100-binary/fine_label_names.txt", text)
	archive := write(t, t.TempDir(), "x.tgz", gzipped(tarOf(t, "c/fine_label_names.txt", text, "c/train.bin", train, "c/test.bin", test)))
	own := write(t, t.TempDir(), "mine.bin", train)
	for _, spec := range []string{binary, filepath.Join(binary, "cifar-100-binary"), path, archive, own} {
		s := opened(t, spec, Options{})
		_, labels := values(t, s)
		require.Equal(t, []int{99, 0}, labels, spec)
		require.Equal(t, "cifar100", s.Name(), spec)
		if spec != own {
			require.Equal(t, "class 42", s.Classes()[42], spec)
		}
	}
	_, labels = values(t, opened(t, archive, Options{Test: true}))
	require.Equal(t, []int{50}, labels)
	_, err := Open(path, Options{Test: true})
	require.ErrorContains(t, err, "no test split")
	_, err = Open(write(t, t.TempDir(), "cifar-100-binary/train.bin", train[:3000]), Options{})
	require.ErrorContains(t, err, "records of 3073")
}

// Folders of other things that have files with CIFAR's common names are what they are.
func TestNamesLikeCIFARs(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "0.png", plain(grey(3), 4, 4))
	write(t, dir, "train.bin", []byte("tokens"))
	write(t, dir, "train", []byte("a list of images"))
	write(t, dir, "data_batch_x", []byte("?"))
	require.Equal(t, 1, opened(t, dir, Options{}).Len())
	classes := t.TempDir()
	write(t, classes, "train/0.png", plain(grey(3), 4, 4))
	write(t, classes, "other/0.png", plain(grey(3), 4, 4))
	require.Equal(t, []string{"other", "train"}, opened(t, classes, Options{}).Classes())
	both := t.TempDir()
	write(t, both, "data_batch_1", read(t, filepath.Join("testdata", "cifar", "protocol5")))
	write(t, both, "data_batch_1.bin", cifarOf(1))
	_, err := Open(both, Options{})
	require.ErrorContains(t, err, "cifar-10-batches-py")
	archives := t.TempDir()
	for _, name := range []string{"cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"} {
		write(t, archives, name, []byte("x"))
	}
	_, err = Open(archives, Options{})
	require.ErrorContains(t, err, "several archives")
}

// Pickles that are not CIFAR's, or that name what is not NumPy's arrays of bytes, are refused by what is wrong.
func TestCIFARPythonHostile(t *testing.T) {
	good := string(read(t, filepath.Join("testdata", "cifar", "protocol5")))
	array := func(of, dtype, shape, order string) string {
		return "\x80\x02}(U\x04datac" + of + "\n(C\x01xcnumpy\ndtype\n(" + dtype + "tR" + shape + order + "tRU\x06labels](K\x04eu."
	}
	for _, c := range []struct{ data, want string }{
		{"\x80\x02N.", "dictionary"},
		{"\x80\x02}.", "data|NumPy"},
		{"\x80\x02}U\x04datacos\nsystem\n(S'id'\ntRs.", "os.system"},
		{"\x80\x04" + good[2:100], "at byte"},
		{strings.Replace(good, "u1", "i4", 1), "uint8"},
		{strings.Replace(good, "labels", "lables", 1), "list|labels"},
		{array("numpy._core.numeric\n_frombuffer", "U\x02u1", "K\x01\x85", "U\x01F"), "C order"},
		{array("numpy._core.numeric\n_frombuffer", "U\x02u1", "K\x02\x85", "U\x01C"), "has 1 bytes"},
		{array("numpy._core.numeric\n_frombuffer", "U\x02u1", "K\x01\x85", "U\x01C"), "[1]|[N 3072]"},
		{array("numpy._core.numeric\n_frombuffer", "U\x02u1", "J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", "U\x01C"), "impossible"},
		{array("numpy.core.multiarray\n_reconstruct", "U\x02u1", "K\x01\x85", "U\x01C"), "state|NumPy"},
	} {
		path := write(t, t.TempDir(), "data_batch_1", []byte(c.data))
		_, err := Open(path, Options{})
		says(t, err, c.want+"|"+path)
	}
	// A name's list of another length is not used, and that is said.
	dir := t.TempDir()
	write(t, dir, "data_batch_1", []byte(good))
	write(t, dir, "batches.meta", []byte("\x80\x02}U\x0blabel_names](U\x01aU\x01bes."))
	s := opened(t, dir, Options{})
	require.Equal(t, cifarClasses, s.Classes())
	require.Contains(t, strings.Join(s.Notices(), "\n"), "batches.meta")
}
