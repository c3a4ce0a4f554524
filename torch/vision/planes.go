package vision

import (
	"fmt"
	"image"
)

// Planes writes an image's levels channel by channel, [3, H, W]: red, green, blue. If dst has room for one plane, [1, H, W], it is
// the luminance Y' of JFIF (ITU-R 601-2), rounded as Pillow's convert("L") does. Alpha is composited on white. It panics
// unless dst has one of these sizes.
func Planes(dst []byte, m image.Image) {
	b := m.Bounds()
	n := b.Dx() * b.Dy()
	if len(dst) != n && len(dst) != 3*n {
		panic(fmt.Sprintf("vision: planes of %d×%d pixels: want %d or %d bytes, got %d", b.Dx(), b.Dy(), n, 3*n, len(dst)))
	}
	img := OnWhite(m)
	i := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		row := img.Pix[img.PixOffset(b.Min.X, y):][:4*b.Dx()]
		for x := 0; x < len(row); x += 4 {
			if len(dst) == n {
				// Coefficients in units of 2^-16 that sum to 1, so that grey is unchanged.
				dst[i] = byte((19595*uint32(row[x]) + 38470*uint32(row[x+1]) + 7471*uint32(row[x+2]) + 1<<15) >> 16)
			} else {
				dst[i], dst[n+i], dst[2*n+i] = row[x], row[x+1], row[x+2]
			}
			i++
		}
	}
}

// FromPlanes is the inverse of Planes: it makes an image of levels [c, h, w], grey for one channel and RGB for three. It panics for
// another number of channels or size of src.
func FromPlanes(src []byte, c, h, w int) image.Image {
	n := h * w
	if (c != 1 && c != 3) || len(src) != c*n {
		panic(fmt.Sprintf("vision: an image of planes [%d, %d, %d]: want 1 or 3 channels and as many bytes, got %d", c, h, w, len(src)))
	}
	if c == 1 {
		m := image.NewGray(image.Rect(0, 0, w, h))
		copy(m.Pix, src)
		return m
	}
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range n {
		px := m.Pix[4*i : 4*i+4]
		px[0], px[1], px[2], px[3] = src[i], src[n+i], src[2*n+i], 255
	}
	return m
}
