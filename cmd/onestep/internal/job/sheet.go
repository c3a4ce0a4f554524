package job

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// sheet is a table of images of one size, with column headings and row labels.
type sheet struct {
	columns []string
	rows    []row
}

type row struct {
	name  string
	cells []image.Image // nil: empty
	apart bool          // whether there is a gap above, before a new group
}

// Sizes in pixels.
const (
	leastCell  = 56 // smaller images are enlarged by an integer factor
	gap        = 3
	groupGap   = 14
	lineHeight = 16
	letter     = 7 // width
)

// draw renders the sheet on white.
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

// write draws a word at a position on its baseline.
func write(img draw.Image, word string, x, y int) {
	d := font.Drawer{Dst: img, Src: image.NewUniform(color.Black), Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(word)
}
