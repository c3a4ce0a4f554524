package vision

import (
	"image"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file is read as it was written; what is no image, or one of too many pixels, is an error that names the file.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.png")
	want := image.NewNRGBA(image.Rect(0, 0, 3, 2))
	for i := range want.Pix {
		want.Pix[i] = uint8(40*i) | 255*uint8(i%4/3)
	}
	require.NoError(t, Write(path, want, WriteOptions{}))
	got, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, want.Bounds(), got.Bounds())
	for y := range 2 {
		for x := range 3 {
			require.Equal(t, want.At(x, y), want.ColorModel().Convert(got.At(x, y)))
		}
	}
	wide := filepath.Join(dir, "wide.png")
	require.NoError(t, Write(wide, image.NewGray(image.Rect(0, 0, 16385, 1)), WriteOptions{}))
	_, err = Read(wide)
	require.ErrorContains(t, err, wide)
	require.ErrorContains(t, err, "16385×1")
	text := filepath.Join(dir, "text.png")
	require.NoError(t, os.WriteFile(text, []byte("no image"), 0o666))
	_, err = Read(text)
	require.ErrorContains(t, err, text)
	_, err = Read(filepath.Join(dir, "none.png"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
