package vision

import (
	"image"
	"math"
)

// fullColour converts decoded images to the full-range YCbCr that package image assumes. A lossy WebP has studio range (RFC
// 6386, 9.2: ITU-R 601, luma 16 to 235, chroma 16 to 240): white would be 235. Subsampled chroma is interpolated like in
// libjpeg and libwebp; package image repeats pixels, which is visible at 32×32.
func fullColour(img *image.YCbCr, format string) *image.YCbCr {
	img = smoothChroma(img)
	if format == "webp" {
		stretch(img.Y, 16, 0, 219)
		stretch(img.Cb, 128, 128, 224)
		stretch(img.Cr, 128, 128, 224)
	}
	return img
}

// stretch maps [zero, zero+span] to [to, to+255].
func stretch(plane []byte, zero, to, span float64) {
	var table [256]byte
	for v := range table {
		table[v] = byte(math.Round(min(max((float64(v)-zero)*255/span+to, 0), 255)))
	}
	for i, v := range plane {
		plane[i] = table[v]
	}
}

// smoothChroma doubles the chroma planes of 4:2:0 and 4:2:2 by a triangle filter, 3/4 of the nearer pixel and 1/4 of the
// next in each direction.
func smoothChroma(img *image.YCbCr) *image.YCbCr {
	tall := img.SubsampleRatio == image.YCbCrSubsampleRatio420
	if !tall && img.SubsampleRatio != image.YCbCrSubsampleRatio422 {
		return img
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	cw, ch := (w+1)/2, h
	if tall {
		ch = (h + 1) / 2
	}
	out := image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio444)
	for y := range h {
		copy(out.Y[y*out.YStride:][:w], img.Y[img.YOffset(img.Rect.Min.X, img.Rect.Min.Y+y):])
		near, far := y, y
		if tall {
			near, far = y/2, neighbour(y, ch)
		}
		for _, p := range [][2][]byte{{out.Cb, img.Cb}, {out.Cr, img.Cr}} {
			to, a, b := p[0][y*out.CStride:][:w], p[1][near*img.CStride:][:cw], p[1][far*img.CStride:][:cw]
			for x := range to {
				i, j := x/2, neighbour(x, cw)
				sum := 9*int(a[i]) + 3*int(a[j]) + 3*int(b[i]) + int(b[j])
				to[x] = byte((sum + 8 - x&1) >> 4)
			}
		}
	}
	return out
}

// neighbour is the second nearest of n pixels to pixel x of a line of twice the length.
func neighbour(x, n int) int { return min(max(x/2-1+x&1*2, 0), n-1) }
