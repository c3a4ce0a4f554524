package dataset

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// linked is an archive of members, of which those that begin with "=" are hard links to what follows.
func linked(t testing.TB, pairs ...any) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := tar.Header{Name: pairs[i].(string), Mode: 0o644, Typeflag: tar.TypeReg}
		data, ok := pairs[i+1].([]byte)
		if text, is := pairs[i+1].(string); is {
			if to, link := strings.CutPrefix(text, "="); link {
				h.Typeflag, h.Linkname = tar.TypeLink, to
			} else {
				data, ok = []byte(text), true
			}
		}
		if ok {
			h.Size = int64(len(data))
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// Hard links in shards are what they are links to: images, captions, classes and descriptions, in plain and gzipped archives.
func TestShardsHardLinks(t *testing.T) {
	img := plain(grey(7), 4, 4)
	archive := linked(t,
		"a/0.png", img, "a/0.txt", "a cat", "a/0.cls", "1", "a/0.json", `{"caption": "x"}`,
		"a/1.png", "=a/0.png", "a/1.txt", "=./a/0.txt", "a/1.cls", "=/a/0.cls", "a/1.json", "=a/0.json",
		"a/2.png", "=a/1.png", "a/2.cls", "0", // a link to a link
		"b.in.png", "=a/0.png", "b.cls", "=a/1.cls")
	for name, data := range map[string][]byte{"x.tar": archive, "x.tar.gz": gzipped(archive)} {
		s := opened(t, write(t, t.TempDir(), name, data), Options{})
		first, labels := values(t, s)
		require.Equal(t, []int{7, 7, 7, 7}, first, name)
		require.Equal(t, []int{1, 1, 0, 1}, labels, name)
		caption, err := s.Caption(1)
		require.NoError(t, err)
		require.Equal(t, "a cat", caption, name)
		id, err := s.Identity()
		require.NoError(t, err)
		require.Contains(t, id, "4 images")
	}
	for _, c := range [][]any{
		{"0.png", "=1.png", "1.png", img},                          // of what comes later, which tar does not make
		{"0.png", img, "1.jpg", "=0.png"},                          // of another format
		{"0.png", img, "1.png", "=0.gif"},                          // of what is not there
		{"0.png", img, "0.cls", "1", "1.cls", "=0.txt"},            // likewise
		{"0.png", img, "1.png", img, "1.cls", "=0.cls"},            // of a class that is not there
		{"0.png", img, "1.png", "=README"},                         // of what is no member of a sample
		{"data_batch_1.bin", "=x", "data_batch_2.bin", cifarOf(1)}, // which CIFAR does not have
	} {
		_, err := Open(write(t, t.TempDir(), "x.tar", linked(t, c...)), Options{})
		require.ErrorContains(t, err, "--hard-dereference", "%v", c[0])
	}
	_, err := Open(write(t, t.TempDir(), "x.tar", linked(t, "0.png", img, "0.cls", "1", "1.cls", "0", "1.cls", "=0.cls")), Options{})
	says(t, err, "duplicate|1.cls")
}

// Images in shards whose formats are not read are counted, and their samples are left out.
func TestShardsLeaveOut(t *testing.T) {
	img := plain(grey(7), 4, 4)
	archive := tarOf(t, "0.png", img, "0.txt", "a", "1.avif", "x", "1.txt", "b", "2.HEIC", "x", "3.png", img, "3.tif", "x", "__MACOSX/4.tif", "x", "._5.avif", "x")
	for name, data := range map[string][]byte{"x.tar": archive, "x.tar.gz": gzipped(archive)} {
		s := opened(t, write(t, t.TempDir(), name, data), Options{})
		require.Equal(t, 2, s.Len(), name)
		require.Equal(t, "1 .avif, 1 .heic, 1 .tif", s.LeftOut(), name)
		first, _ := values(t, s)
		require.Equal(t, []int{7, 7}, first)
	}
	// A caption without any image is damage, as before.
	s := opened(t, write(t, t.TempDir(), "x.tar", tarOf(t, "0.png", img, "1.txt", "b")), Options{})
	_, err := s.Read(1, make([]byte, s.size()))
	require.ErrorAs(t, err, new(*CorruptError))
	_, err = Open(write(t, t.TempDir(), "x.tar", tarOf(t, "1.avif", "x", "1.cls", "1")), Options{})
	require.ErrorContains(t, err, "only 1 .avif")
}

// EMNIST's letters have labels from 1 on: no class stands for 0. Classes have the names of the mapping that EMNIST ships.
func TestEMNIST(t *testing.T) {
	dir := t.TempDir()
	images := write(t, dir, "emnist-letters-train-images-idx3-ubyte", idxOf([]byte{1, 2, 3}, 3, 1, 1))
	write(t, dir, "emnist-letters-train-labels-idx1-ubyte", idxOf([]byte{2, 1, 3}, 3))
	s := opened(t, images, Options{})
	_, labels := values(t, s)
	require.Equal(t, []int{1, 0, 2}, labels)
	require.Equal(t, []string{"1", "2", "3"}, s.Classes())
	require.Equal(t, []int{1, 1, 1}, s.Counts())
	require.Contains(t, strings.Join(s.Notices(), "\n"), "labels 1 to 3")
	write(t, dir, "emnist-letters-mapping.txt", []byte("1 65 97\n2 66 98\nnonsense\n3 67 99\r\n9 70 102\n"))
	require.Equal(t, []string{"A", "B", "C"}, opened(t, dir, Options{}).Classes())

	// Of a split whose labels start at 0 nothing changes but the names.
	digits := t.TempDir()
	write(t, digits, "emnist-balanced-test-images-idx3-ubyte", idxOf([]byte{1, 2}, 2, 1, 1))
	write(t, digits, "emnist-balanced-test-labels-idx1-ubyte", idxOf([]byte{0, 2}, 2))
	write(t, digits, "emnist-balanced-mapping.txt", []byte("0 48\n2 65\n"))
	s = opened(t, digits, Options{Test: true})
	require.Equal(t, []string{"0", "1", "A"}, s.Classes())
	require.Len(t, s.Notices(), 1, "on rows and columns alone")
}

// Data in forms that are not read is named with what to do.
func TestPackedData(t *testing.T) {
	for name, want := range map[string]string{
		"data/train-00000-of-00001.parquet": "Hugging Face", "data-00000-of-00001.arrow": "Hugging Face", "archive.zip": "unpack", "x.npz": ".npz",
	} {
		dir := t.TempDir()
		path := write(t, dir, name, []byte("PAR1"))
		for _, spec := range []string{dir, path} {
			_, err := Open(spec, Options{})
			require.ErrorContains(t, err, want, spec)
			require.ErrorContains(t, err, path, spec)
		}
		write(t, dir, "0.png", plain(grey(7), 4, 4))
		require.Equal(t, 1, opened(t, filepath.Clean(dir), Options{}).Len(), "images beside it are what was meant")
	}
}

// Images of different sizes, or that are not square, get a resolution if squares are asked for, and a note says which and why.
func TestChosenResolution(t *testing.T) {
	set := func(sizes ...size) string {
		dir := t.TempDir()
		for i, x := range sizes {
			write(t, dir, fmt.Sprintf("%03d.png", i), plain(grey(i), x.w, x.h))
		}
		return dir
	}
	many := make([]size, 20)
	for i := range many {
		many[i] = size{100 + i, 60}
	}
	many[7] = size{20, 20} // an outlier does not count
	for _, c := range []struct {
		name  string
		sizes []size
		side  int
		want  int
		notes string // parts of them
	}{
		{"alike", []size{{20, 20}, {20, 20}}, 0, 20, ""},
		{"alike, whatever a model has", []size{{20, 20}, {20, 20}}, 16, 20, ""},
		{"not square", []size{{30, 20}, {30, 20}}, 0, 16, "30×20|16×16"},
		{"mixed", []size{{300, 200}, {400, 500}}, 0, 64, "300×200|400×500|64×64|200 pixels|is 64"},
		{"small", []size{{13, 20}, {14, 14}}, 0, 8, "8×8|13"},
		{"tiny", []size{{3, 5}, {4, 4}}, 0, 3, "3×3"},
		{"a model's", []size{{13, 20}, {14, 14}}, 32, 32, "32×32|model"},
		{"with an outlier", many, 0, 48, "48×48|20×20|60 pixels"},
	} {
		dir := set(c.sizes...)
		s := opened(t, dir, Options{Square: true, Side: c.side})
		_, h, w := s.Shape()
		require.Equal(t, []int{c.want, c.want}, []int{h, w}, c.name)
		notes := strings.Join(s.Notices(), "\n")
		require.Equal(t, c.notes == "", notes == "", "%s: %s", c.name, notes)
		for _, part := range strings.Split(c.notes, "|") {
			require.Contains(t, notes, part, c.name)
		}
		for i := range s.Len() {
			at(t, s, i)
		}
		require.Zero(t, s.Resized(), c.name)
		require.Empty(t, opened(t, dir, Options{Square: true, Resolution: 8}).Notices(), "a resolution that was asked for is no choice")
	}
	// An image of another size that was not looked at does not end a run, and is counted.
	sizes := make([]size, 2*looked)
	for i := range sizes {
		sizes[i] = size{8, 8}
	}
	sizes[3] = size{9, 8}
	s := opened(t, set(sizes...), Options{Square: true})
	for range 2 {
		for i := range s.Len() {
			at(t, s, i)
		}
	}
	require.Equal(t, 1, s.Resized())
	// Tables, too.
	s = opened(t, write(t, t.TempDir(), "x-images-idx3-ubyte", idxOf(make([]byte, 2*6*9), 2, 6, 9)), Options{Square: true})
	_, h, w := s.Shape()
	require.Equal(t, []int{4, 4}, []int{h, w})
	require.Contains(t, strings.Join(s.Notices(), "\n"), "9×6")
	at(t, s, 1)
}

// Images are looked at once each, far from each other.
func TestSpread(t *testing.T) {
	seen := map[int]bool{}
	for k := range looked {
		seen[spread(k, looked)] = true
	}
	require.Len(t, seen, looked)
	require.Equal(t, []int{0, looked / 2, looked / 4}, []int{spread(0, looked), spread(1, looked), spread(2, looked)})
	require.Equal(t, 5, spread(5, 7))
}
