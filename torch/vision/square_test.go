package vision

import (
	"fmt"
	"image"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Pillow's BICUBIC is the same kernel. Rounding may differ by 1: here it is the last step of two passes in 16 bits.
func TestSquareEqualsPillow(t *testing.T) {
	from, err := decoded(read(t, "testdata/square/from.png"))
	require.NoError(t, err)
	for _, side := range []int{13, 32, 64} {
		want, err := decoded(read(t, fmt.Sprintf("testdata/square/%d.png", side)))
		require.NoError(t, err)
		most, mean := difference(Square(from, side), want)
		t.Logf("%d pixels: largest difference %d, mean %.3f", side, most, mean)
		assert.LessOrEqual(t, most, 1)
	}
}

func TestSquareTakesTheMiddle(t *testing.T) {
	src := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18} // 3×2×3
	middle := make([]byte, 12)
	Planes(middle, Square(OnWhite(FromPlanes(src, 3, 2, 3)), 2))
	assert.Equal(t, []byte{1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17}, middle)

	away := OnWhite(FromPlanes(src, 3, 2, 3))
	away.Rect = away.Rect.Add(image.Pt(5, 7))
	Planes(middle, Square(away, 2))
	assert.Equal(t, []byte{1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17}, middle, "an image that does not begin at 0, 0")
}

func TestMiddle(t *testing.T) {
	r := image.Rect(10, 20, 110, 70)
	for size, want := range map[image.Point]image.Rectangle{
		{X: 2, Y: 1}: r, {X: 1, Y: 1}: image.Rect(35, 20, 85, 70), {X: 4, Y: 1}: image.Rect(10, 32, 110, 57), {X: 1, Y: 1000}: image.Rect(59, 20, 60, 70),
	} {
		assert.Equal(t, want, Middle(r, size.X, size.Y), "%v", size)
	}
}
