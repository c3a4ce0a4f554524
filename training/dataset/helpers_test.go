package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sharedData returns a file of the development data, which lies beside the repository, or skips the test.
func sharedData(t testing.TB, name string) string {
	dir, err := os.Getwd()
	require.NoError(t, err)
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, "..", "shared", "data", filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("development data %s is not beside the repository", name)
	}
	return path
}

// write makes a file in dir, and its folders.
func write(t testing.TB, dir, name string, data []byte) string {
	path := filepath.Join(dir, filepath.FromSlash(name))
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

// says checks that an error has all of some facts, which | separates.
func says(t testing.TB, err error, facts string) {
	t.Helper()
	for _, fact := range strings.Split(facts, "|") {
		require.ErrorContains(t, err, fact)
	}
}

func read(t testing.TB, path string) []byte {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	z.Close()
	return b.Bytes()
}

// plain is a PNG of one colour.
func plain(c color.Color, w, h int) []byte {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		img.Set(i%w, i/w, c)
	}
	var b bytes.Buffer
	png.Encode(&b, img)
	return b.Bytes()
}

func grey(v int) color.Color { return color.Gray{uint8(v)} }

// tarOf is an archive of pairs of a name and a content.
func tarOf(t testing.TB, pairs ...any) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		var data []byte
		switch v := pairs[i+1].(type) {
		case string:
			data = []byte(v)
		case []byte:
			data = v
		}
		require.NoError(t, w.WriteHeader(&tar.Header{Name: pairs[i].(string), Mode: 0o644, Size: int64(len(data)), Format: tar.FormatUSTAR}))
		_, err := w.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// idxOf is an IDX file of unsigned bytes.
func idxOf(data []byte, dims ...int) []byte {
	b := []byte{0, 0, 8, byte(len(dims))}
	for _, d := range dims {
		b = binary.BigEndian.AppendUint32(b, uint32(d))
	}
	return append(b, data...)
}

// cifarOf is records of a label and 3,072 bytes of the same value.
func cifarOf(labels ...byte) []byte {
	var b []byte
	for _, l := range labels {
		b = append(b, l)
		b = append(b, bytes.Repeat([]byte{10 * l}, cifarPixels)...)
	}
	return b
}

func opened(t testing.TB, spec string, o Options) *Set {
	s, err := Open(spec, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// at reads image i.
func at(t testing.TB, s Dataset, i int) ([]byte, int) {
	c, h, w := s.Shape()
	dst := make([]byte, c*h*w)
	label, err := s.Read(i, dst)
	require.NoError(t, err)
	return dst, label
}

// values are the first pixels and the labels of all images.
func values(t testing.TB, s Dataset) (first, labels []int) {
	for i := range s.Len() {
		px, label := at(t, s, i)
		first, labels = append(first, int(px[0])), append(labels, label)
	}
	return first, labels
}

// allocated is the number of bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
