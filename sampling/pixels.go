package sampling

import (
	"image"
	"image/color"

	"github.com/onestep-go/onestep/torch"
)

// pixels returns a picture's colours as [1, 3, H, W] from 0 to 1. Alpha is left out: images that have it are put on white before.
func pixels(s *torch.Scope, m image.Image) *torch.Tensor {
	b := m.Bounds()
	area := b.Dx() * b.Dy()
	v := make([]float32, 3*area)
	eachColour(m, func(i int, c color.NRGBA) {
		v[i], v[area+i], v[2*area+i] = float32(c.R)/255, float32(c.G)/255, float32(c.B)/255
	})
	return torch.FromSlice(s, v, 1, 3, b.Dy(), b.Dx())
}

// grey returns a picture's brightness as [1, 1, H, W] from 0 to 1, rounded to 8 bits as in Pillow's convert("L") (ITU-R 601-2).
func grey(s *torch.Scope, m image.Image) *torch.Tensor {
	b := m.Bounds()
	v := make([]float32, b.Dx()*b.Dy())
	eachColour(m, func(i int, c color.NRGBA) {
		v[i] = float32((uint32(c.R)*19595+uint32(c.G)*38470+uint32(c.B)*7471+1<<15)>>16) / 255
	})
	return torch.FromSlice(s, v, 1, 1, b.Dy(), b.Dx())
}

// eachColour calls f for each pixel, row by row.
func eachColour(m image.Image, f func(i int, c color.NRGBA)) {
	b := m.Bounds()
	i := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			f(i, color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA))
			i++
		}
	}
}
