package upload

import (
	"image"
	"image/draw"

	"github.com/onestep-go/onestep/torch/vision"
)

// Blend puts a generated image over an input image where a mask is white: where it is black, the result is the input image to the bit. All have the same
// size; the generated image is changed.
func Blend(generated, input *image.NRGBA, mask *image.Gray) {
	for i, m := range mask.Pix {
		for c := range 4 {
			a, b := int(input.Pix[4*i+c]), int(generated.Pix[4*i+c])
			generated.Pix[4*i+c] = uint8((a*(255-int(m)) + b*int(m) + 127) / 255)
		}
	}
}

// Plain returns a copy of an image as NRGBA at the origin, without gaps between its rows.
func Plain(m image.Image) *image.NRGBA {
	out := image.NewNRGBA(image.Rectangle{Max: m.Bounds().Size()})
	draw.Draw(out, out.Rect, m, m.Bounds().Min, draw.Src)
	return out
}

// Grey returns a copy of a mask of some size, at the origin.
func Grey(m image.Image, size image.Point) *image.Gray {
	if m.Bounds().Size() != size {
		m = vision.Resize(m, size.X, size.Y, vision.Bilinear)
	}
	out := image.NewGray(image.Rectangle{Max: size})
	draw.Draw(out, out.Rect, m, m.Bounds().Min, draw.Src)
	return out
}
