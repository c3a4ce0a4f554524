package dataset

import (
	"errors"
	"image"

	xdraw "golang.org/x/image/draw"

	"github.com/onestep-go/onestep/torch/vision"
)

const maxEncoded = vision.MaxEncoded

var errNoImage = errors.New("no image")

// decode reads an image of any format, upright and on white.
func decode(data []byte) (*image.RGBA, error) {
	img, err := vision.Decode(data)
	if err != nil {
		return nil, err
	}
	return vision.OnWhite(img), nil
}

// square cuts out the middle square and resamples it to side×side pixels; side 0 leaves the image as it is.
func square(img *image.RGBA, side int) *image.RGBA {
	b := img.Bounds()
	if side == 0 || (b.Dx() == side && b.Dy() == side) {
		return img
	}
	n := min(b.Dx(), b.Dy())
	at := image.Pt((b.Dx()-n)/2, (b.Dy()-n)/2)
	middle := img.SubImage(image.Rectangle{at, at.Add(image.Pt(n, n))}).(*image.RGBA)
	if n == side {
		return middle
	}
	out := image.NewRGBA(image.Rect(0, 0, side, side))
	xdraw.CatmullRom.Scale(out, out.Bounds(), middle, middle.Bounds(), xdraw.Src, nil)
	return out
}

// toPlanes writes an opaque image channel by channel: red, green, blue, or the luminance Y' of JFIF if dst is one plane.
func toPlanes(dst []byte, img *image.RGBA) {
	b := img.Bounds()
	n := b.Dx() * b.Dy()
	i := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		row := img.Pix[img.PixOffset(b.Min.X, y):][:4*b.Dx()]
		for x := 0; x < len(row); x += 4 {
			if len(dst) == n {
				// Coefficients of 2^16 that add up to it, so grey stays what it is.
				dst[i] = byte((19595*uint32(row[x]) + 38470*uint32(row[x+1]) + 7471*uint32(row[x+2]) + 1<<15) >> 16)
			} else {
				dst[i], dst[n+i], dst[2*n+i] = row[x], row[x+1], row[x+2]
			}
			i++
		}
	}
}

// fromPlanes is toPlanes' inverse.
func fromPlanes(src []byte, c, h, w int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	n := h * w
	for i := range n {
		px := img.Pix[4*i : 4*i+4]
		for k := range 3 {
			px[k] = src[min(k, c-1)*n+i]
		}
		px[3] = 255
	}
	return img
}
