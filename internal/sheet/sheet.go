// Package sheet draws tables of images with headings of columns and labels of rows.
package sheet

import (
	"image"
	"image/color"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// Sheet is a table of images of one size.
type Sheet struct {
	Columns []string // headings; long ones are broken into lines
	Rows    []Row
}

// Row is a row of a sheet.
type Row struct {
	Name  string
	Cells []image.Image // nil: empty
	Apart bool          // whether there is a gap above, before a new group
}

// Sizes in pixels.
const (
	leastCell  = 56 // smaller images are enlarged by an integer factor
	gap        = 3
	groupGap   = 14
	lineHeight = 16
	letter     = 7 // width
)

// Draw renders the sheet on white.
func (t Sheet) Draw() image.Image {
	cell := image.Point{}
	for _, r := range t.Rows {
		for _, c := range r.Cells {
			if c != nil {
				cell = c.Bounds().Size()
			}
		}
	}
	times := max(1, (leastCell+cell.X-1)/max(1, cell.X))
	cell = cell.Mul(times)
	left := 0
	for _, r := range t.Rows {
		left = max(left, utf8.RuneCountInString(r.Name)*letter+2*gap)
	}
	headings, top := make([][]string, len(t.Columns)), lineHeight
	for i, name := range t.Columns {
		headings[i] = lines(name, cell.X/letter)
		top = max(top, len(headings[i])*lineHeight)
	}
	width, height := left+len(t.Columns)*(cell.X+gap)+gap, top+gap
	for _, r := range t.Rows {
		height += cell.Y + gap
		if r.Apart {
			height += groupGap
		}
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for i, heading := range headings {
		for j, line := range heading {
			write(img, line, left+i*(cell.X+gap), top-gap-(len(heading)-1-j)*lineHeight)
		}
	}
	y := top
	for _, r := range t.Rows {
		if r.Apart {
			y += groupGap
		}
		write(img, r.Name, gap, y+cell.Y/2+letter/2)
		for i, c := range r.Cells {
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

// lines breaks a text at spaces, and longer words of letters with a hyphen, so that lines have at most so many letters. Numbers stay whole.
func lines(text string, letters int) (all []string) {
	for _, word := range strings.Fields(text) {
		if last := len(all) - 1; last >= 0 && utf8.RuneCountInString(all[last]+" "+word) <= letters {
			all[last] += " " + word
			continue
		}
		rest := []rune(word)
		for letters > 1 && len(rest) > letters && !strings.ContainsFunc(word, notLetter) {
			all, rest = append(all, string(rest[:letters-1])+"-"), rest[letters-1:]
		}
		all = append(all, string(rest))
	}
	return all
}

func notLetter(r rune) bool { return !unicode.IsLetter(r) }

// write draws a word at a position on its baseline.
func write(img draw.Image, word string, x, y int) {
	d := font.Drawer{Dst: img, Src: image.NewUniform(color.Black), Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(word)
}
