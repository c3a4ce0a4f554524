package torchtest

import (
	"image"
	"image/color"
	"math"
)

// Levels returns the largest difference of two images in a channel, in levels from 0 to 255; that of images of different sizes is larger.
func Levels(a, b image.Image) (most int) {
	area := a.Bounds()
	if area != b.Bounds() {
		return math.MaxInt
	}
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			p, q := color.NRGBAModel.Convert(a.At(x, y)).(color.NRGBA), color.NRGBAModel.Convert(b.At(x, y)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
				most = max(most, d, -d)
			}
		}
	}
	return most
}
