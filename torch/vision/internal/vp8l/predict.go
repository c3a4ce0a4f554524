package vp8l

const (
	blockBits = 4 // blocks of 16×16 pixels have a rule each
	blockSide = 1 << blockBits
	rules     = 14
)

// predict returns the residuals of predicting pixels from their neighbours, and for each block the rule's number, as green.
func predict(pixels []pixel, w, h int) (modes, differences []pixel) {
	differences = make([]pixel, len(pixels))
	for y := 0; y < h; y += blockSide {
		for x := 0; x < w; x += blockSide {
			best, least := 0, -1
			for rule := range rules {
				cost := 0
				for yy := y; yy < min(y+blockSide, h) && (least < 0 || cost < least); yy += 2 { // every other row is enough
					for xx := x; xx < min(x+blockSide, w); xx++ {
						i := yy*w + xx
						cost += size(pixels[i], predicted(pixels, i, xx, yy, w, rule))
					}
				}
				if least < 0 || cost < least {
					best, least = rule, cost
				}
			}
			modes = append(modes, pixel{0, uint8(best), 0, 255})
			for yy := y; yy < min(y+blockSide, h); yy++ {
				for xx := x; xx < min(x+blockSide, w); xx++ {
					i := yy*w + xx
					p := predicted(pixels, i, xx, yy, w, best)
					for c := range p {
						differences[i][c] = pixels[i][c] - p[c]
					}
				}
			}
		}
	}
	return modes, differences
}

// size is the magnitude of a residual, by which rules are compared.
func size(a, b pixel) int {
	n := 0
	for c := range a {
		d := int(int8(a[c] - b[c]))
		n += max(d, -d)
	}
	return n
}

// predicted is a rule's prediction for pixel i, at x, y (RFC 9649, 4.1).
func predicted(pixels []pixel, i, x, y, w, rule int) pixel {
	switch {
	case x == 0 && y == 0:
		return pixel{0, 0, 0, 255}
	case y == 0:
		return pixels[i-1]
	case x == 0:
		return pixels[i-w]
	}
	// For the last pixel of a row, the top-right neighbour is the first pixel of its own row.
	left, top, topLeft, topRight := pixels[i-1], pixels[i-w], pixels[i-w-1], pixels[i-w+1]
	switch rule {
	case 0:
		return pixel{0, 0, 0, 255}
	case 1:
		return left
	case 2:
		return top
	case 3:
		return topRight
	case 4:
		return topLeft
	case 5:
		return mean(mean(left, topRight), top)
	case 6:
		return mean(left, topLeft)
	case 7:
		return mean(left, top)
	case 8:
		return mean(topLeft, top)
	case 9:
		return mean(top, topRight)
	case 10:
		return mean(mean(left, topLeft), mean(top, topRight))
	case 11: // whichever is closer to left + top - topLeft
		toLeft, toTop := 0, 0
		for c := range left {
			l, t := int(top[c])-int(topLeft[c]), int(left[c])-int(topLeft[c])
			toLeft, toTop = toLeft+max(l, -l), toTop+max(t, -t)
		}
		if toLeft < toTop {
			return left
		}
		return top
	case 12:
		var p pixel
		for c := range p {
			p[c] = clamp(int(left[c]) + int(top[c]) - int(topLeft[c]))
		}
		return p
	default:
		p := mean(left, top)
		for c := range p {
			p[c] = clamp(int(p[c]) + (int(p[c])-int(topLeft[c]))/2)
		}
		return p
	}
}

func mean(a, b pixel) pixel {
	for c := range a {
		a[c] = uint8((int(a[c]) + int(b[c])) / 2)
	}
	return a
}

func clamp(v int) uint8 { return uint8(min(max(v, 0), 255)) }
