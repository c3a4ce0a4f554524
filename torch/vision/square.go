package vision

import (
	"image"

	xdraw "golang.org/x/image/draw"
)

// Square returns the center crop of an image, scaled to side×side pixels, for training. The kernel is Catmull-Rom, widened when
// downscaling, and within one level of Pillow's BICUBIC. With side 0, or if the image has that size already, it is not changed. The
// result may share its pixels with img.
func Square(img *image.RGBA, side int) *image.RGBA {
	b := img.Bounds()
	if side == 0 || (b.Dx() == side && b.Dy() == side) {
		return img
	}
	n := min(b.Dx(), b.Dy())
	at := b.Min.Add(image.Pt((b.Dx()-n)/2, (b.Dy()-n)/2))
	middle := img.SubImage(image.Rectangle{at, at.Add(image.Pt(n, n))}).(*image.RGBA)
	if n == side {
		return middle
	}
	out := image.NewRGBA(image.Rect(0, 0, side, side))
	xdraw.CatmullRom.Scale(out, out.Bounds(), middle, middle.Bounds(), xdraw.Src, nil)
	return out
}
