package sheet

import (
	"image"
	"image/color"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDraw(t *testing.T) {
	red := image.NewUniform(color.RGBA{255, 0, 0, 255})
	cell := image.NewRGBA(image.Rect(0, 0, 28, 28))
	for i := range 28 {
		for j := range 28 {
			cell.Set(i, j, red.C)
		}
	}
	img := Sheet{Columns: []string{"a", "b"}, Rows: []Row{{Name: "x", Cells: []image.Image{cell, nil}}, {Name: "y", Cells: []image.Image{nil, cell}, Apart: true}}}.Draw()
	left := letter + 2*gap
	require.Equal(t, image.Pt(left+2*(56+gap)+gap, lineHeight+gap+2*(56+gap)+groupGap), img.Bounds().Size())
	at := func(x, y int) color.Color { return color.RGBAModel.Convert(img.At(x, y)) }
	require.Equal(t, red.C, at(left, lineHeight))
	require.Equal(t, red.C, at(left+55, lineHeight+55), "28 pixels are enlarged to 56")
	require.Equal(t, color.RGBA{255, 255, 255, 255}, at(left+56+gap, lineHeight), "an empty place")
	require.Equal(t, red.C, at(left+56+gap, lineHeight+56+gap+groupGap))
}

// Headings that are longer than a column become several lines, at the bottom of which the images begin.
func TestLongHeadings(t *testing.T) {
	require.Equal(t, []string{"slice of", "pizza", "automob-", "ile long"}, lines("slice of pizza  automobile long", 8))
	require.Equal(t, []string{"t=0.00203"}, lines("t=0.00203", 8))
	require.Empty(t, lines("", 8))
	cell := image.NewGray(image.Rect(0, 0, 56, 56))
	img := Sheet{Columns: []string{"slice of pizza", "cat"}, Rows: []Row{{Name: "é", Cells: []image.Image{cell, cell}}}}.Draw()
	left := letter + 2*gap
	require.Equal(t, image.Pt(left+2*(56+gap)+gap, 2*lineHeight+gap+56+gap), img.Bounds().Size())
	require.Equal(t, color.RGBA{0, 0, 0, 255}, color.RGBAModel.Convert(img.At(left, 2*lineHeight)))
	inked := func(x, y int) (found bool) {
		for i := range 56 {
			for j := range lineHeight {
				found = found || img.At(x+i, y+j) != color.RGBA{255, 255, 255, 255}
			}
		}
		return found
	}
	require.True(t, inked(left, 0))
	require.True(t, inked(left, lineHeight-1))
	require.False(t, inked(left+56+gap, 0), "short headings stand at the images")
	require.True(t, inked(left+56+gap, lineHeight-1))
}
