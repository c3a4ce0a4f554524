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
	middle := img.SubImage(Middle(b, 1, 1)).(*image.RGBA)
	if middle.Rect.Dx() == side {
		return middle
	}
	out := image.NewRGBA(image.Rect(0, 0, side, side))
	xdraw.CatmullRom.Scale(out, out.Bounds(), middle, middle.Bounds(), xdraw.Src, nil)
	return out
}

// Middle returns the largest part of a rectangle with the proportions of width to height, in its middle.
func Middle(r image.Rectangle, width, height int) image.Rectangle {
	size := image.Pt(r.Dx(), max(1, r.Dx()*height/width))
	if size.Y > r.Dy() {
		size = image.Pt(max(1, r.Dy()*width/height), r.Dy())
	}
	at := r.Min.Add(r.Size().Sub(size).Div(2))
	return image.Rectangle{at, at.Add(size)}
}
