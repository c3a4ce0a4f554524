package job

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// sheet is a table of pictures of one size, with words above its columns and beside its rows.
type sheet struct {
	columns []string
	rows    []row
}

type row struct {
	name  string
	cells []image.Image // nil: an empty place
	apart bool          // whether there is room above, as before a new group
}

// Sizes in pixels.
const (
	leastCell  = 56 // smaller pictures are enlarged by a whole factor
	gap        = 3
	groupGap   = 14
	lineHeight = 16
	letter     = 7 // width
)

// draw returns the sheet on white.
func (t sheet) draw() image.Image {
	cell := image.Point{}
	for _, r := range t.rows {
		for _, c := range r.cells {
			if c != nil {
				cell = c.Bounds().Size()
			}
		}
	}
	times := max(1, (leastCell+cell.X-1)/max(1, cell.X))
	cell = cell.Mul(times)
	left := 0
	for _, r := range t.rows {
		left = max(left, len([]rune(r.name))*letter+2*gap)
	}
	width, height := left+len(t.columns)*(cell.X+gap)+gap, lineHeight+gap
	for _, r := range t.rows {
		height += cell.Y + gap
		if r.apart {
			height += groupGap
		}
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for i, name := range t.columns {
		write(img, name, left+i*(cell.X+gap), lineHeight-gap)
	}
	y := lineHeight
	for _, r := range t.rows {
		if r.apart {
			y += groupGap
		}
		write(img, r.name, gap, y+cell.Y/2+letter/2)
		for i, c := range r.cells {
			if c == nil {
				continue
			}
			at := image.Pt(left+i*(cell.X+gap), y)
			draw.NearestNeighbor.Scale(img, image.Rectangle{at, at.Add(cell)}, c, c.Bounds(), draw.Src, nil)
		}
		y += cell.Y + gap
	}
	return img
}

// write puts a word at a place on its base line.
func write(img draw.Image, word string, x, y int) {
	d := font.Drawer{Dst: img, Src: image.NewUniform(color.Black), Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(word)
}
