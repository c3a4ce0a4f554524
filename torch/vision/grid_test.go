package vision

import (
	"image"
	"image/color"
	"testing"

	"github.com/stretchr/testify/require"
)

func grey(w, h int, v uint8) image.Image {
	m := image.NewGray(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = v
	}
	return m
}

func TestGrid(t *testing.T) {
	var images []image.Image
	for i := range 5 {
		images = append(images, grey(4, 3, uint8(10*i)))
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
	_, err = Grid([]image.Image{grey(2, 2, 0), grey(3, 2, 0)}, 0)
	require.ErrorContains(t, err, "grid")
}
