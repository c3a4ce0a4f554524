package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/draw"
	_ "image/gif"  // a format of images
	_ "image/jpeg" // likewise
	_ "image/png"  // likewise
	"math"

	_ "golang.org/x/image/bmp" // likewise
	xdraw "golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // likewise
)

// Limits of one image. Decoders allocate what a header declares, so a small file may not declare a large image: the
// ratio is above what a real picture, however plain, is compressed to.
const (
	maxEncoded     = 256 << 20 // bytes
	maxPixels      = 64 << 20
	maxPlainPixels = 4 << 20 // allowed to a file of any size
	pixelsPerByte  = 2048    // allowed beyond that
)

var errNoImage = errors.New("no image")

// header is what an image says of itself before it is decoded.
type header struct {
	w, h        int // as stored
	orientation int // of EXIF: 1 upright … 8
}

// size returns width and height as the image is meant to be seen.
func (h header) size() (int, int) {
	if h.orientation >= 5 {
		return h.h, h.w
	}
	return h.w, h.h
}

func readHeader(data []byte) (header, error) {
	if len(data) == 0 {
		return header{}, errors.New("it is empty")
	}
	cfg, format, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return header{}, err
	}
	h := header{cfg.Width, cfg.Height, 1}
	if h.w < 1 || h.h < 1 {
		return h, fmt.Errorf("it declares %d×%d pixels", h.w, h.h)
	}
	if h.w > maxPixels/h.h {
		return h, fmt.Errorf("it declares %d×%d pixels; at most %d million are read", h.w, h.h, maxPixels>>20)
	}
	if n := h.w * h.h; n > maxPlainPixels && n/pixelsPerByte > len(data) {
		return h, fmt.Errorf("it declares %d×%d pixels in %d bytes", h.w, h.h, len(data))
	}
	if format == "jpeg" {
		h.orientation = orientation(data)
	}
	return h, nil
}

// decode reads an image of any format, turns it upright and puts it on white.
func decode(data []byte) (*image.RGBA, error) {
	from, err := Decode(data)
	if err != nil {
		return nil, err
	}
	img := image.NewRGBA(from.Bounds())
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(img, img.Bounds(), from, image.Point{}, draw.Over)
	return img, nil
}

// Decode reads an image, PNG, JPEG, GIF, BMP or WebP, upright and with the colours that libjpeg and libwebp give it. Of an animation it is
// the first picture. Alpha stays. A header that declares far more pixels than the data can hold is an error.
func Decode(data []byte) (img image.Image, err error) {
	h, err := readHeader(data)
	if err != nil {
		return nil, err
	}
	// Decoders are meant not to panic, but one that does on one image among a million must not end a run.
	defer func() {
		if r := recover(); r != nil {
			img, err = nil, fmt.Errorf("the decoder gave up: %v", r)
		}
	}()
	img, format, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	switch from := img.(type) {
	case *image.YCbCr:
		img = fullColour(from, format)
	case *image.NYCbCrA:
		from.YCbCr = *fullColour(&from.YCbCr, format)
	}
	if whole := image.Rect(0, 0, h.w, h.h); img.Bounds() != whole { // a GIF's first frame may be a part of its screen
		screen := image.NewNRGBA(whole)
		draw.Draw(screen, img.Bounds(), img, img.Bounds().Min, draw.Src)
		img = screen
	}
	if h.orientation == 1 {
		return img, nil
	}
	opaque := image.NewRGBA(img.Bounds()) // as all JPEG files are
	draw.Draw(opaque, opaque.Bounds(), img, image.Point{}, draw.Src)
	return upright(opaque, h.orientation), nil
}

// fullColour brings what decoders return to what package image takes all YCbCr to be. A lossy WebP has studio range (RFC
// 6386, 9.2: ITU-R 601, luma 16 to 235, chroma 16 to 240): white would be 235. And chroma of half the resolution is
// interpolated as libjpeg and libwebp do it, where package image repeats pixels, which shows at 32×32.
func fullColour(img *image.YCbCr, format string) *image.YCbCr {
	img = smoothChroma(img)
	if format == "webp" {
		stretch(img.Y, 16, 0, 219)
		stretch(img.Cb, 128, 128, 224)
		stretch(img.Cr, 128, 128, 224)
	}
	return img
}

// stretch maps [zero, zero+span] to [to, to+255].
func stretch(plane []byte, zero, to, span float64) {
	var table [256]byte
	for v := range table {
		table[v] = byte(math.Round(min(max((float64(v)-zero)*255/span+to, 0), 255)))
	}
	for i, v := range plane {
		plane[i] = table[v]
	}
}

// smoothChroma doubles the chroma planes of 4:2:0 and 4:2:2 by a triangle filter, 3/4 of the nearer pixel and 1/4 of the
// next in each direction.
func smoothChroma(img *image.YCbCr) *image.YCbCr {
	tall := img.SubsampleRatio == image.YCbCrSubsampleRatio420
	if !tall && img.SubsampleRatio != image.YCbCrSubsampleRatio422 {
		return img
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	cw, ch := (w+1)/2, h
	if tall {
		ch = (h + 1) / 2
	}
	out := image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio444)
	for y := range h {
		copy(out.Y[y*out.YStride:][:w], img.Y[img.YOffset(img.Rect.Min.X, img.Rect.Min.Y+y):])
		near, far := y, y
		if tall {
			near, far = y/2, neighbour(y, ch)
		}
		for _, p := range [][2][]byte{{out.Cb, img.Cb}, {out.Cr, img.Cr}} {
			to, a, b := p[0][y*out.CStride:][:w], p[1][near*img.CStride:][:cw], p[1][far*img.CStride:][:cw]
			for x := range to {
				i, j := x/2, neighbour(x, cw)
				sum := 9*int(a[i]) + 3*int(a[j]) + 3*int(b[i]) + int(b[j])
				to[x] = byte((sum + 8 - x&1) >> 4)
			}
		}
	}
	return out
}

// neighbour is the second nearest of n pixels to pixel x of a line twice as long.
func neighbour(x, n int) int { return min(max(x/2-1+x&1*2, 0), n-1) }

// square cuts out the middle square and resamples it to side×side pixels; side 0 leaves the image as it is.
func square(img *image.RGBA, side int) *image.RGBA {
	b := img.Bounds()
	if side == 0 || (b.Dx() == side && b.Dy() == side) {
		return img
	}
	n := min(b.Dx(), b.Dy())
	at := image.Pt((b.Dx()-n)/2, (b.Dy()-n)/2)
	middle := img.SubImage(image.Rectangle{at, at.Add(image.Pt(n, n))}).(*image.RGBA)
	if n == side {
		return middle
	}
	out := image.NewRGBA(image.Rect(0, 0, side, side))
	xdraw.CatmullRom.Scale(out, out.Bounds(), middle, middle.Bounds(), xdraw.Src, nil)
	return out
}

// toPlanes writes an opaque image channel by channel: red, green, blue, or the luminance Y' of JFIF if dst is one plane.
func toPlanes(dst []byte, img *image.RGBA) {
	b := img.Bounds()
	n := b.Dx() * b.Dy()
	i := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		row := img.Pix[img.PixOffset(b.Min.X, y):][:4*b.Dx()]
		for x := 0; x < len(row); x += 4 {
			if len(dst) == n {
				// Coefficients of 2^16 that add up to it, so grey stays what it is.
				dst[i] = byte((19595*uint32(row[x]) + 38470*uint32(row[x+1]) + 7471*uint32(row[x+2]) + 1<<15) >> 16)
			} else {
				dst[i], dst[n+i], dst[2*n+i] = row[x], row[x+1], row[x+2]
			}
			i++
		}
	}
}

// fromPlanes is toPlanes' inverse.
func fromPlanes(src []byte, c, h, w int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	n := h * w
	for i := range n {
		px := img.Pix[4*i : 4*i+4]
		for k := range 3 {
			px[k] = src[min(k, c-1)*n+i]
		}
		px[3] = 255
	}
	return img
}

// upright undoes an EXIF orientation.
func upright(img *image.RGBA, orientation int) *image.RGBA {
	if orientation < 2 || orientation > 8 {
		return img
	}
	w, h := img.Bounds().Dx(), img.Bounds().Dy()
	size := image.Rect(0, 0, w, h)
	if orientation >= 5 {
		size = image.Rect(0, 0, h, w)
	}
	out := image.NewRGBA(size)
	for y := range size.Dy() {
		for x := range size.Dx() {
			// What the stored image has at (sx, sy) is seen at (x, y).
			sx, sy := x, y
			switch orientation {
			case 2:
				sx = w - 1 - x
			case 3:
				sx, sy = w-1-x, h-1-y
			case 4:
				sy = h - 1 - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, h-1-x
			case 7:
				sx, sy = w-1-y, h-1-x
			case 8:
				sx, sy = w-1-y, x
			}
			copy(out.Pix[out.PixOffset(x, y):][:4], img.Pix[img.PixOffset(sx, sy):])
		}
	}
	return out
}

// orientation finds the orientation in a JPEG's EXIF segment, 1 (upright) if there is none (EXIF 2.3, 4.6.4 A).
func orientation(jpeg []byte) int {
	for at := 2; at+4 <= len(jpeg) && jpeg[at] == 0xff; {
		marker, size := jpeg[at+1], int(binary.BigEndian.Uint16(jpeg[at+2:]))
		if marker == 0xda || size < 2 || at+2+size > len(jpeg) {
			break
		}
		segment := jpeg[at+4 : at+2+size]
		at += 2 + size
		tiff, found := bytes.CutPrefix(segment, []byte("Exif\x00\x00"))
		if marker != 0xe1 || !found || len(tiff) < 8 {
			continue
		}
		var order binary.ByteOrder = binary.LittleEndian
		if tiff[0] == 'M' {
			order = binary.BigEndian
		}
		ifd := int64(order.Uint32(tiff[4:]))
		if ifd+2 > int64(len(tiff)) {
			continue
		}
		entries := tiff[ifd+2:]
		for n := int(order.Uint16(tiff[ifd:])); n > 0 && len(entries) >= 12; n-- {
			if order.Uint16(entries) == 0x0112 {
				if v := int(order.Uint16(entries[8:])); v >= 1 && v <= 8 {
					return v
				}
			}
			entries = entries[12:]
		}
	}
	return 1
}
