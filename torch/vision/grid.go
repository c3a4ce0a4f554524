package vision

import (
	"errors"
	"fmt"
	"image"
	"image/draw"
	"math"
)

// Grid arranges images of one size in rows, with gaps of 2 pixels, on white. With columns 0 the grid is nearly square.
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
