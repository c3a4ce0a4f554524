package webui

import (
	"context"
	"image"
	"math"
)

// filled returns an image in which what is white in a mask has the colours around it, the nearer the more: A1111's fill. The mask is black and
// white.
func filled(ctx context.Context, m *image.NRGBA, mask *image.Gray) (*image.NRGBA, error) {
	// Colours times opacity, and opacity, in four planes.
	var known [4]*image.Gray
	var sum [4][]float32
	for c := range known {
		known[c] = image.NewGray(mask.Rect)
		sum[c] = make([]float32, len(mask.Pix))
		for i, white := range mask.Pix {
			if white == 0 {
				known[c].Pix[i] = 255
				if c < 3 {
					known[c].Pix[i] = m.Pix[4*i+c]
				}
			}
		}
	}
	for _, layer := range []struct {
		deviation float64
		times     int
	}{{256, 1}, {64, 1}, {16, 2}, {4, 4}, {2, 2}, {0, 1}} { // A1111's, the last one on top
		var over [4]*image.Gray
		for c := range over {
			if err := ctx.Err(); err != nil { // a large image takes seconds
				return nil, err
			}
			over[c] = blurred(known[c], layer.deviation, layer.deviation)
		}
		for range layer.times {
			for i, opacity := range over[3].Pix {
				through := 1 - float32(opacity)/255
				for c := range sum {
					sum[c][i] = float32(over[c].Pix[i]) + sum[c][i]*through
				}
			}
		}
	}
	out := image.NewNRGBA(m.Rect)
	copy(out.Pix, m.Pix)
	for i, opacity := range sum[3] {
		if mask.Pix[i] == 0 || opacity == 0 {
			continue
		}
		for c := range 3 {
			out.Pix[4*i+c] = uint8(min(255*sum[c][i]/opacity+0.5, 255))
		}
	}
	return out, nil
}

// blurred returns a mask blurred by standard deviations in x and y, in pixels: by three box filters, which are near a Gaussian.
func blurred(m *image.Gray, x, y float64) *image.Gray {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	out := image.NewGray(m.Rect)
	copy(out.Pix, m.Pix)
	line := make([]uint8, max(w, h))
	byX, byY := boxes(x), boxes(y)
	for i := range byX {
		for row := range h {
			box(out.Pix[row*w:], 1, line[:w], byX[i])
		}
		for column := range w {
			box(out.Pix[column:], w, line[:h], byY[i])
		}
	}
	return out
}

// boxes returns the radii of three box filters with the variance d² together: a box of width w has (w² - 1)/12.
func boxes(d float64) (radii [3]int) {
	small := int((math.Sqrt(4*d*d+1) - 1) / 2)
	variance := func(radius int) float64 { return float64(4*radius*radius+4*radius) / 12 }
	larger := int(math.Round((d*d - 3*variance(small)) / (variance(small+1) - variance(small))))
	for i := range radii {
		radii[i] = small
		if i < larger {
			radii[i]++
		}
	}
	return radii
}

// box averages each of the values that lie a stride apart with its neighbours up to a radius. line is for use within.
func box(values []uint8, stride int, line []uint8, radius int) {
	n := len(line)
	if radius == 0 {
		return
	}
	for i := range line {
		line[i] = values[i*stride]
	}
	at := func(i int) int { return int(line[min(max(i, 0), n-1)]) }
	sum, width := 0, 2*radius+1
	for i := -radius; i <= radius; i++ {
		sum += at(i)
	}
	for i := range n {
		values[i*stride] = uint8((sum + width/2) / width)
		sum += at(i+radius+1) - at(i-radius)
	}
}
