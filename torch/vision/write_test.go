package vision

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func filled(w, h int, v uint8) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	draw.Draw(m, m.Bounds(), image.NewUniform(color.NRGBA{v, v, v, 255}), image.Point{}, draw.Src)
	return m
}

func TestWritePNG(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.png")
	texts := []Text{{"Software", "onestep"}, {"settings", `{"café": 1}`}, {"unicode", "日本語 🙂"}}
	require.NoError(t, Write(path, filled(3, 2, 7), WriteOptions{Texts: texts}))
	err := Write(path, filled(1, 1, 0), WriteOptions{})
	require.ErrorIs(t, err, fs.ErrExist)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, image.Pt(3, 2), img.Bounds().Size())
	got, err := ReadTexts(bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, texts, got)
	require.NoError(t, Write(path, filled(1, 1, 0), WriteOptions{Overwrite: true}))
	require.Error(t, Write(filepath.Join(t.TempDir(), "none", "x.png"), filled(1, 1, 0), WriteOptions{}))
	require.ErrorContains(t, EncodePNG(&bytes.Buffer{}, filled(1, 1, 0), []Text{{"日本", ""}}), "keyword")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".onestep-*"))
	require.NoError(t, err)
	require.Empty(t, left, "no temporary files stay")
}

func FuzzReadTexts(f *testing.F) {
	var b bytes.Buffer
	if err := EncodePNG(&b, filled(2, 2, 1), []Text{{"a", "b"}, {"c", "日"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:40])
	f.Add([]byte("\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXt"))
	f.Add([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x03iTXta\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		texts, err := ReadTexts(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, x := range texts {
			if len(x.Keyword) > len(data)*2 || len(x.Value) > len(data)*2 {
				t.Fatalf("%d bytes gave a text of %d", len(data), len(x.Value))
			}
		}
	})
}
