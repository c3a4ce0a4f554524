package sampling

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func TestPictures(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{-1, 1, 0, 9, -9, 0.5, -0.5, 1, 0, 0, 0, 0}, 1, 3, 2, 2)
		got, err := Pictures(x)
		require.NoError(t, err)
		require.Equal(t, color.NRGBA{0, 0, 128, 255}, got[0].At(0, 0))
		require.Equal(t, color.NRGBA{255, 191, 128, 255}, got[0].At(1, 0))
		require.Equal(t, color.NRGBA{255, 255, 128, 255}, got[0].At(1, 1), "values outside are clamped")

		grey, err := Pictures(torch.Zeros(s, torch.Float16, 2, 1, 3, 4))
		require.NoError(t, err)
		require.Len(t, grey, 2)
		require.Equal(t, image.Rect(0, 0, 4, 3), grey[1].Bounds())
		require.IsType(t, &image.Gray{}, grey[0])

		_, err = Pictures(torch.Full(s, math.NaN(), torch.Float32, 1, 1, 2, 2))
		require.ErrorContains(t, err, "4 of 4 values are NaN")
		require.ErrorIs(t, err, ErrNaN)
		_, err = Pictures(torch.Zeros(s, torch.Float32, 1, 2, 2, 2))
		require.ErrorContains(t, err, "[1 2 2 2]")
		return nil
	}))
}

func filled(w, h int, v uint8) image.Image {
	m := image.NewGray(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = v
	}
	return m
}

func TestGrid(t *testing.T) {
	var images []image.Image
	for i := range 5 {
		images = append(images, filled(4, 3, uint8(10*i)))
	}
	g, err := Grid(images, 0)
	require.NoError(t, err)
	require.Equal(t, image.Pt(3*6+2, 2*5+2), g.Bounds().Size(), "3 columns of 4+2, 2 rows of 3+2, and an edge")
	require.Equal(t, color.Gray{40}, g.At(2+6, 2+5), "image 4 is second in the second row")
	require.Equal(t, color.Gray{255}, g.At(2+12, 2+5), "empty places are white")
	g, err = Grid(images, 9)
	require.NoError(t, err)
	require.Equal(t, 5*6+2, g.Bounds().Dx(), "no more columns than images")
	_, err = Grid(nil, 0)
	require.Error(t, err)
	_, err = Grid([]image.Image{filled(2, 2, 0), filled(3, 2, 0)}, 0)
	require.ErrorContains(t, err, "grid")
}

func TestWritePNG(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.png")
	texts := []Text{{"Software", "onestep"}, {"settings", `{"café": 1}`}, {"unicode", "日本語 🙂"}}
	require.NoError(t, WritePNG(path, filled(3, 2, 7), texts, false))
	err := WritePNG(path, filled(1, 1, 0), nil, false)
	require.ErrorIs(t, err, fs.ErrExist)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, image.Pt(3, 2), img.Bounds().Size())
	got, err := ReadTexts(bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, texts, got)
	require.NoError(t, WritePNG(path, filled(1, 1, 0), nil, true))
	require.Error(t, WritePNG(filepath.Join(t.TempDir(), "none", "x.png"), filled(1, 1, 0), nil, false))
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
