package vp8l

import mathbits "math/bits"

// Alphabet sizes: green with the length prefixes of references, red, blue and alpha, and distances.
const (
	lengthCodes   = 24
	distanceCodes = 40
)

// Limits of backward references: of the format and, the last two, of the search.
const (
	longestRun = 4096
	farthest   = 1<<20 - 120
	shortest   = 3
	tries      = 24
)

// item is a pixel, or a backward reference of a length and a distance.
type item struct {
	pixel    pixel
	run      int // 0: a pixel
	distance int // as a distance code
}

// image writes an image of that width (RFC 9649, 5). main distinguishes the image itself from the images of transforms.
func (b *bits) image(pixels []pixel, across int, main bool) {
	b.write(0, 1) // no colour cache
	if main {
		b.write(0, 1) // one group of codes
	}
	items := repetitions(pixels, across)
	counts := [5][]int{make([]int, 256+lengthCodes), make([]int, 256), make([]int, 256), make([]int, 256), make([]int, distanceCodes)}
	for _, x := range items {
		if x.run > 0 {
			symbol, _, _ := prefix(x.run)
			counts[0][256+symbol]++
			symbol, _, _ = prefix(x.distance)
			counts[4][symbol]++
			continue
		}
		for i, c := range []int{green, red, blue, alpha} {
			counts[i][x.pixel[c]]++
		}
	}
	var codes [5]code
	for i := range codes {
		codes[i] = b.code(counts[i])
	}
	for _, x := range items {
		if x.run == 0 {
			for i, c := range []int{green, red, blue, alpha} {
				codes[i].write(b, int(x.pixel[c]))
			}
			continue
		}
		symbol, extra, n := prefix(x.run)
		codes[0].write(b, 256+symbol)
		b.write(extra, n)
		symbol, extra, n = prefix(x.distance)
		codes[4].write(b, symbol)
		b.write(extra, n)
	}
}

// prefix splits a length or a distance, from 1 on, into a prefix symbol and its extra bits (RFC 9649, 4.2.2).
func prefix(v int) (symbol int, extra uint64, n int) {
	v--
	if v < 4 {
		return v, 0, 0
	}
	n = mathbits.Len(uint(v)) - 2
	return 2*(n+1) + v>>n&1, uint64(v & (1<<n - 1)), n
}

// coded is the distance code of a distance: two of the pixel's neighbours have short codes (RFC 9649, 4.2.2, the distance map).
func coded(distance, across int) int {
	switch distance {
	case across:
		return 1
	case 1:
		return 2
	}
	return distance + 120
}

// repetitions finds backward references, by the last positions of the same three pixels.
func repetitions(pixels []pixel, across int) (items []item) {
	const slots = 1 << 16
	var newest [slots]int32 // position + 1
	older := make([]int32, len(pixels))
	key := func(i int) uint32 {
		h := uint32(2166136261)
		for _, p := range pixels[i : i+shortest] {
			for _, c := range p {
				h = (h ^ uint32(c)) * 16777619
			}
		}
		return (h ^ h>>16) % slots
	}
	remember := func(i int) {
		if i+shortest <= len(pixels) {
			k := key(i)
			older[i], newest[k] = newest[k], int32(i+1)
		}
	}
	for i := 0; i < len(pixels); {
		run, distance := 0, 0
		if i+shortest <= len(pixels) {
			for at, n := int(newest[key(i)])-1, 0; at >= 0 && n < tries && run < longestRun && i-at <= farthest; at, n = int(older[at])-1, n+1 {
				k := 0
				for i+k < len(pixels) && k < longestRun && pixels[at+k] == pixels[i+k] {
					k++
				}
				if k > run {
					run, distance = k, i-at
				}
			}
		}
		// A distant short run costs more than its pixels.
		if run >= shortest && (run > 8 || distance < 1<<12) {
			items = append(items, item{run: run, distance: coded(distance, across)})
			for range run {
				remember(i)
				i++
			}
			continue
		}
		items = append(items, item{pixel: pixels[i]})
		remember(i)
		i++
	}
	return items
}
