package sampling

import (
	"image"
	"image/color"
	"math"
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
