package captioned

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// write makes a file in dir, and its directories.
func write(t testing.TB, dir, name, data string) string {
	path := filepath.Join(dir, filepath.FromSlash(name))
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
	return path
}

// gradient is a PNG of w×h pixels with x in red, y in green and b in blue.
func gradient(w, h int, b byte) string {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{byte(x), byte(y), b, 255})
		}
	}
	var out bytes.Buffer
	png.Encode(&out, img)
	return out.String()
}

// hugePNG declares 2^31-1 pixels on each side.
func hugePNG() string {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x10\x06\x00\x00\x00")
	return string(binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:])))
}

// tree writes files, given as pairs of a name and a content.
func tree(t testing.TB, pairs ...string) string {
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		write(t, dir, pairs[i], pairs[i+1])
	}
	return dir
}

func opened(t testing.TB, spec string, o Options) *Set {
	t.Helper()
	s, err := Open(context.Background(), spec, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// refused returns the error of opening.
func refused(t testing.TB, spec string, o Options) error {
	t.Helper()
	s, err := Open(context.Background(), spec, o)
	require.Error(t, err, "opened %v", s)
	require.NotContains(t, err.Error(), "\n")
	return err
}

// batches are the first n batches from a position on.
func batches(r *Order, position int64, n int) [][]Item {
	var list [][]Item
	for b := range r.From(position) {
		if list = append(list, b); len(list) == n {
			break
		}
	}
	return list
}

var nan = math.NaN()
