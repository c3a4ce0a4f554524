package sampling

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// ErrNaN is what there is no picture of.
var ErrNaN = errors.New("NaN")

// Pictures turns x [B, C, H, W] with values in [-1, 1] into images: grey for one channel, colour for three. Values
// outside are clamped; NaN is an error, ErrNaN, that says how many there are. Levels are rounded as diffusers does, in float32, halves
// to even.
func Pictures(x *torch.Tensor) ([]image.Image, error) {
	shape := x.Shape()
	if len(shape) != 4 || (shape[1] != 1 && shape[1] != 3) {
		return nil, fmt.Errorf("pictures: want a tensor [B, 1 or 3, H, W], got %v", shape)
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	v := torch.ToSlice[float32](x.Detach(s).ToDevice(s, torch.CPU).To(s, torch.Float32))
	b, c, h, w := shape[0], shape[1], shape[2], shape[3]
	bad := 0
	level := func(f float32) uint8 {
		if f != f {
			bad++
			return 0
		}
		return uint8(math.RoundToEven(float64(min(max(f/2+0.5, 0), 1) * 255)))
	}
	out := make([]image.Image, b)
	for i := range out {
		p := v[i*c*h*w : (i+1)*c*h*w]
		if c == 1 {
			g := image.NewGray(image.Rect(0, 0, w, h))
			for j := range p {
				g.Pix[j] = level(p[j])
			}
			out[i] = g
			continue
		}
		m := image.NewNRGBA(image.Rect(0, 0, w, h))
		for j := range h * w {
			m.SetNRGBA(j%w, j/w, color.NRGBA{level(p[j]), level(p[h*w+j]), level(p[2*h*w+j]), 255})
		}
		out[i] = m
	}
	if bad > 0 {
		return nil, fmt.Errorf("pictures: %d of %d values are %w: the model's weights or the noise levels are broken", bad, len(v), ErrNaN)
	}
	return out, nil
}

// Grid lays images of one size out in rows, 2 pixels apart on white. columns 0 chooses a nearly square grid.
func Grid(images []image.Image, columns int) (image.Image, error) {
	if len(images) == 0 {
		return nil, errors.New("grid: no images")
	}
	if columns <= 0 {
		columns = int(math.Ceil(math.Sqrt(float64(len(images)))))
	}
	columns = min(columns, len(images))
	const gap = 2
	size := images[0].Bounds().Size()
	rows := (len(images) + columns - 1) / columns
	area := image.Rect(0, 0, columns*(size.X+gap)+gap, rows*(size.Y+gap)+gap)
	var out draw.Image = image.NewNRGBA(area)
	if _, grey := images[0].(*image.Gray); grey {
		out = image.NewGray(area)
	}
	draw.Draw(out, area, image.White, image.Point{}, draw.Src)
	for i, m := range images {
		if m.Bounds().Size() != size {
			return nil, fmt.Errorf("grid: images of %v and %v pixels", size, m.Bounds().Size())
		}
		at := image.Pt(gap+i%columns*(size.X+gap), gap+i/columns*(size.Y+gap))
		draw.Draw(out, image.Rectangle{at, at.Add(size)}, m, m.Bounds().Min, draw.Src)
	}
	return out, nil
}
