package vision

import (
	"image"

	xdraw "golang.org/x/image/draw"
)

// Square returns the middle square of an image, scaled to side×side pixels: what models are trained on. Its kernel is Catmull and Rom's,
// widened where the image shrinks, and within one level of Pillow's BICUBIC. Side 0, and that of an image that is such a square already,
// leave it as it is. The result may share its pixels with img.
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
