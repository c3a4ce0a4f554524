package dataset

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
)

// Pillow's BICUBIC is the same kernel. Rounding may differ by 1: here it is the last step of two passes in 16 bits.
func TestResizeEqualsPillow(t *testing.T) {
	from, err := decode(read(t, "testdata/resize_from.png"))
	require.NoError(t, err)
	for _, side := range []int{13, 32, 64} {
		want, err := decode(read(t, fmt.Sprintf("testdata/resize_%d.png", side)))
		require.NoError(t, err)
		most, mean := difference(square(from, side), want)
		t.Logf("%d pixels: largest difference %d, mean %.3f", side, most, mean)
		assert.LessOrEqual(t, most, 1)
	}
}

// difference is the largest and the mean difference between the channels of two images of the same size.
func difference(a, b *image.RGBA) (most int, mean float64) {
	n := 3 * a.Bounds().Dx() * a.Bounds().Dy()
	p, q := make([]byte, n), make([]byte, n)
	vision.Planes(p, a)
	vision.Planes(q, b)
	sum := 0
	for i := range p {
		d := max(int(p[i])-int(q[i]), int(q[i])-int(p[i]))
		most, sum = max(most, d), sum+d
	}
	return most, float64(sum) / float64(n)
}

func TestSquareTakesTheMiddle(t *testing.T) {
	src := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18} // 3×2×3
	middle := make([]byte, 12)
	vision.Planes(middle, square(vision.OnWhite(vision.FromPlanes(src, 3, 2, 3)), 2))
	assert.Equal(t, []byte{1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17}, middle)
}

// pngOf is a PNG that declares a size and holds next to nothing.
func pngOf(w, h int) []byte {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
	b = binary.BigEndian.AppendUint32(b, uint32(w))
	b = binary.BigEndian.AppendUint32(b, uint32(h))
	b = append(b, 16, 6, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
}

// bombs are small files that declare large images.
func bombs() map[string][]byte {
	gif := []byte("GIF89a\xff\xff\xff\xff\x80\x00\x00\xff\x00\x00\x00\xff\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x03\x04\x80\x02\x00;")
	jpeg := append([]byte("\xff\xd8\xff\xc0\x00\x11\x08"), 0xff, 0xff, 0xff, 0xff, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xd9)
	webp := []byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\xff\xff\xff\x0f\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	bmp := append([]byte("BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00"), 0, 64, 0, 0, 0, 64, 0, 0, 1, 0, 24, 0)
	return map[string][]byte{
		"png": pngOf(1<<31-1, 1<<31-1), "png below the limit": pngOf(8192, 8192), "png of 9 million": pngOf(3000, 3000),
		"gif": gif, "jpeg": jpeg, "webp": webp, "bmp": append(bmp, make([]byte, 24)...),
	}
}
