package vision

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/draw"
	_ "image/gif"  // registers a decoder
	_ "image/jpeg" // likewise
	_ "image/png"  // likewise
	"runtime"

	_ "golang.org/x/image/bmp"  // likewise
	_ "golang.org/x/image/webp" // likewise
)

// MaxEncoded is the size in bytes of the largest file that is decoded.
const MaxEncoded = 256 << 20

// Limits of one image. Decoders allocate what a header declares, so a small file must not declare a large image: the
// ratio is above the compression of any real image.
const (
	maxPixels      = 64 << 20
	manyPixels     = 16 << 20 // images for which every copy takes hundreds of megabytes
	maxPlainPixels = 4 << 20  // allowed for a file of any size
	pixelsPerByte  = 2048     // allowed beyond that
)

// Header is an image's header, read without decoding the image.
type Header struct {
	Width, Height int // as stored
	Orientation   int // EXIF orientation, 1 (upright) to 8
}

// Size returns width and height after applying the orientation.
func (h Header) Size() (w, hh int) {
	if h.Orientation >= 5 {
		return h.Height, h.Width
	}
	return h.Width, h.Height
}

// ReadHeader reads the header of an image that [Decode] reads, and checks that decoding it stays within limits of time and memory.
func ReadHeader(data []byte) (Header, error) {
	h, _, err := readHeader(data)
	return h, err
}

// readHeader also returns the frame to decode of a WebP; nil for other formats.
func readHeader(data []byte) (h Header, frame *webpFrame, err error) {
	if len(data) == 0 {
		return h, nil, errors.New("it is empty")
	}
	whole := data
	if isWebP(data) {
		if frame, err = firstFrame(data); err != nil {
			return h, nil, err
		}
		data = frame.data
	}
	cfg, format, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return h, nil, err
	}
	h = Header{Width: cfg.Width, Height: cfg.Height}
	if err := h.check(len(data)); err != nil {
		return h, nil, err
	}
	if frame != nil {
		if !image.Rect(0, 0, h.Width, h.Height).Add(frame.at).In(image.Rectangle{Max: frame.canvas}) {
			return h, nil, errors.New("webp: its first frame is outside of its canvas")
		}
		h.Width, h.Height = frame.canvas.X, frame.canvas.Y
		if err := h.check(len(data)); err != nil {
			return h, nil, err
		}
	}
	if format == "jpeg" {
		err = checkJPEG(data)
	}
	h.Orientation = Orientation(whole)
	return h, frame, err
}

// check compares the declared size to the limits.
func (h Header) check(encoded int) error {
	switch {
	case h.Width < 1 || h.Height < 1:
		return fmt.Errorf("it declares %d×%d pixels", h.Width, h.Height)
	case h.Width > maxPixels/h.Height:
		return fmt.Errorf("it declares %d×%d pixels: want at most %d million", h.Width, h.Height, maxPixels>>20)
	}
	if n := h.Width * h.Height; n > maxPlainPixels && n/pixelsPerByte > encoded {
		return fmt.Errorf("it declares %d×%d pixels in %d bytes", h.Width, h.Height, encoded)
	}
	return nil
}

// OnWhite composites an image on white, as opaque RGBA. An image that is opaque RGBA already is returned unchanged.
func OnWhite(m image.Image) *image.RGBA {
	if rgba, ok := m.(*image.RGBA); ok && rgba.Opaque() {
		return rgba
	}
	out := image.NewRGBA(m.Bounds())
	draw.Draw(out, out.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(out, out.Bounds(), m, m.Bounds().Min, draw.Over)
	return out
}

// Decode reads an image, PNG, JPEG, GIF, BMP or WebP, with its EXIF orientation applied and the same colours as
// libjpeg and libwebp. Of an animation it reads the first frame. Alpha is kept. A header that declares far more pixels than the data can
// hold is an error, and so is a progressive JPEG whose decoding would take more than half a gigabyte.
func Decode(data []byte) (img image.Image, err error) {
	h, frame, err := readHeader(data)
	if err != nil {
		return nil, err
	}
	if frame != nil {
		data = frame.data
	}
	// Decoders should not panic, but a panic on one image in a million must not end a run.
	defer func() {
		if r := recover(); r != nil {
			img, err = nil, fmt.Errorf("the decoder panicked: %v", r)
		}
	}()
	img, format, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	// Free the memory of a large image's decoder, three times the image for a progressive JPEG, before allocating more.
	large := h.Width > manyPixels/h.Height
	if large {
		runtime.GC()
	}
	switch from := img.(type) {
	case *image.YCbCr:
		img = fullColour(from, format)
	case *image.NYCbCrA:
		from.YCbCr = *fullColour(&from.YCbCr, format)
	}
	if large {
		runtime.GC()
	}
	if whole := image.Rect(0, 0, h.Width, h.Height); img.Bounds() != whole { // the first frame of an animation may cover a part of the canvas
		at := img.Bounds()
		if frame != nil {
			at = at.Add(frame.at)
		}
		screen := image.NewNRGBA(whole)
		draw.Draw(screen, at, img, img.Bounds().Min, draw.Src)
		img = screen
	}
	return upright(img, h.Orientation), nil
}
