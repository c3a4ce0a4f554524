// Package vp8l encodes images as VP8L, the lossless format of WebP.
//
// Format: RFC 9649, section 3. Green is subtracted from red and blue if that helps, pixels are predicted from their neighbours by the best
// rule for each block, and the residuals are written in prefix codes, with backward references for repetitions. Colour caches, palettes, the
// colour transform and prefix codes that change within the image are not used: they save a few percent on photographs.
package vp8l

import (
	"image"
	"math"
)

// MaxSide is the largest width and height of an image.
const MaxSide = 1 << 14

// Encode returns an image's VP8L bitstream, without a container. Width and height have to be 1 to MaxSide pixels.
func Encode(img *image.NRGBA) []byte {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	pixels := make([]pixel, 0, w*h)
	for y := range h {
		row := img.Pix[y*img.Stride:][:4*w]
		for i := 0; i < len(row); i += 4 {
			pixels = append(pixels, pixel{row[i], row[i+1], row[i+2], row[i+3]})
		}
	}
	var b bits
	b.write(0x2f, 8)
	b.write(uint64(w-1), 14)
	b.write(uint64(h-1), 14)
	if img.Opaque() {
		b.write(0, 1)
	} else {
		b.write(1, 1)
	}
	b.write(0, 3) // version

	if greenHelps(pixels) {
		b.write(1, 1) // a transform follows
		b.write(subtractGreen, 2)
		for i := range pixels {
			p := &pixels[i]
			p[red] -= p[green]
			p[blue] -= p[green]
		}
	}

	modes, differences := predict(pixels, w, h)
	b.write(1, 1)
	b.write(predictor, 2)
	b.write(blockBits-2, 3)
	across := (w + blockSide - 1) / blockSide
	b.image(modes, across, false)

	b.write(0, 1) // no more transforms
	b.image(differences, w, true)
	return b.bytes()
}

// Numbers of transforms.
const (
	predictor     = 0
	subtractGreen = 2
)

// pixel is red, green, blue and alpha, not premultiplied.
type pixel [4]uint8

const (
	red = iota
	green
	blue
	alpha
)

// greenHelps reports whether red and blue differ less from pixel to pixel once green is subtracted, as in photographs, by the entropies
// of the differences.
func greenHelps(pixels []pixel) bool {
	var plain, without [256]int
	for i := 1; i < len(pixels); i++ {
		p, last := pixels[i], pixels[i-1]
		g := p[green] - last[green]
		for _, c := range []int{red, blue} {
			d := p[c] - last[c]
			plain[d]++
			without[d-g]++
		}
	}
	return entropy(without) < entropy(plain)
}

// entropy is the number of bits for symbols with these counts, up to a term that depends only on their sum.
func entropy(counts [256]int) float64 {
	sum := 0.0
	for _, n := range counts {
		if n > 0 {
			sum -= float64(n) * math.Log2(float64(n))
		}
	}
	return sum
}

// bits is a bitstream of numbers, lowest bits first.
type bits struct {
	out  []byte
	held uint64
	n    int
}

// write appends the n lowest bits of v, at most 32; the higher bits of v have to be 0.
func (b *bits) write(v uint64, n int) {
	b.held |= v << b.n
	for b.n += n; b.n >= 8; b.n -= 8 {
		b.out = append(b.out, byte(b.held))
		b.held >>= 8
	}
}

// bytes returns the stream, padded with zero bits.
func (b *bits) bytes() []byte {
	if b.n > 0 {
		b.out = append(b.out, byte(b.held))
	}
	return b.out
}
