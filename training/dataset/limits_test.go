package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/internal/archive"
)

// sparse makes a file that takes no room.
func sparse(t *testing.T, name string, head []byte, size int64) string {
	path := write(t, t.TempDir(), name, head)
	require.NoError(t, os.Truncate(path, size))
	return path
}

// Pixels that are not gzipped stay in their file.
func TestIDXInPlace(t *testing.T) {
	const n, side = 256, 4000
	path := sparse(t, "train-images-idx3-ubyte", idxOf(nil, n, side, side), 16+n*side*side)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{7}, 16+(n-1)*side*side)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	var s *Set
	allocates := allocated(func() { s = opened(t, path, Options{}) })
	require.Less(t, allocates, uint64(1<<20), "bytes allocated for 4 GB of pixels")
	px, label := at(t, s, n-1)
	require.Equal(t, []byte{7, 0}, px[:2])
	require.Equal(t, -1, label)
	require.NoError(t, os.Truncate(path, 1000))
	_, err = s.Read(n-1, px)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = s.Identity()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// In a file and in memory the pixels, and what tells them from others, are the same.
func TestIDXPlainAndGzipped(t *testing.T) {
	data := idxOf([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2)
	plain := opened(t, write(t, t.TempDir(), "train-images-idx3-ubyte", data), Options{})
	packed := opened(t, write(t, t.TempDir(), "train-images-idx3-ubyte.gz", gzipped(data)), Options{})
	for i := range 2 {
		a, _ := at(t, plain, i)
		b, _ := at(t, packed, i)
		require.Equal(t, a, b)
	}
	a, err := plain.Identity()
	require.NoError(t, err)
	b, err := packed.Identity()
	require.NoError(t, err)
	require.Equal(t, a, b)
}

func TestLabelsOfAnotherNumber(t *testing.T) {
	path := write(t, t.TempDir(), "train-images-idx3-ubyte", idxOf([]byte{1}, 1, 1, 1))
	labels := filepath.Join(filepath.Dir(path), "train-labels-idx1-ubyte")
	require.NoError(t, os.WriteFile(labels, idxOf(nil, 1<<24), 0o644))
	require.NoError(t, os.Truncate(labels, 8+1<<24))
	n := allocated(func() {
		_, err := Open(path, Options{})
		require.ErrorContains(t, err, "16777216")
	})
	require.Less(t, n, uint64(1<<20), "bytes allocated")
}

// A set of CIFAR's records is refused by the size of its files and members, before they are read.
func TestCIFARTooLarge(t *testing.T) {
	records := func(n int64) int64 { return n * (1 + cifarPixels) }
	big := write(t, t.TempDir(), "cifar-10-binary.tar.gz", nil)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "data_batch_1.bin", Size: records(maxRecords + 1), Mode: 0o644}))
	require.NoError(t, os.WriteFile(big, gzipped(b.Bytes()), 0o644)) // without the records
	for name, path := range map[string]string{
		"3 TB":                  sparse(t, "data_batch_1.bin", nil, 3<<40),
		"a record too much":     sparse(t, "data_batch_1.bin", nil, records(maxRecords+1)),
		"a member of the same":  big,
		"a plain archive of it": write(t, t.TempDir(), "cifar-10-binary.tar", b.Bytes()),
	} {
		t.Run(name, func(t *testing.T) {
			n := allocated(func() {
				_, err := Open(path, Options{})
				require.ErrorContains(t, err, "131072")
				require.ErrorContains(t, err, path)
			})
			require.Less(t, n, uint64(1<<20), "bytes allocated")
		})
	}
}

// zipBomb writes an archive whose one member is so many zeros.
func zipBomb(t *testing.T, member string, zeros int64) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	require.NoError(t, err)
	w := tar.NewWriter(z)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: member, Size: zeros, Mode: 0o644}))
	buf := make([]byte, 1<<20)
	for n := zeros; n > 0; n -= int64(len(buf)) {
		_, err := w.Write(buf)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return b.Bytes()
}

// Gzipped files may not unpack to what is empty, also where nothing of it is kept.
func TestZipBomb(t *testing.T) {
	bomb := zipBomb(t, "README", archive.MaxUnpacked+64<<20)
	for _, name := range []string{"x.tar.gz", "cifar-10-binary.tar.gz"} {
		path := write(t, t.TempDir(), name, bomb)
		n := allocated(func() {
			_, err := Open(path, Options{Resolution: 8})
			require.ErrorIs(t, err, archive.ErrEmptied)
			require.ErrorContains(t, err, path)
		})
		assert.Less(t, n, uint64(1<<20), "bytes allocated")
	}
	t.Run("what a file of honest size may hold", func(t *testing.T) {
		f, err := archive.OpenGzip(write(t, t.TempDir(), "x.gz", gzipped(make([]byte, 1<<20))))
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, f.Promises(180<<20))
		n, err := io.Copy(io.Discard, f)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, n)
	})
}
