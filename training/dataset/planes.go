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
