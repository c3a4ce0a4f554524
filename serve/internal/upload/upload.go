// Package upload decodes images that clients send: the bytes of a file, or text in base64, plain or as a data: URL. Such images are hostile.
// The format is found by content, size and pixels are checked before anything is decoded, and text that is a path or another URL is an
// error: nothing is opened.
package upload

import (
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
)

// ErrTooLarge is wrapped by errors of images with more bytes or pixels than the limits.
var ErrTooLarge = errors.New("the image is too large")

// Limits of one image. Zero fields have the defaults given.
type Limits struct {
	Bytes  int // of the file; 0: 32 MiB
	Pixels int // 0: 16·1024²
}

func (l Limits) orDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 32 << 20
	}
	if l.Pixels == 0 {
		l.Pixels = 16 << 20
	}
	return l
}

// Decode decodes a PNG, JPEG or WebP file: the first frame, with its EXIF orientation applied. Alpha is kept.
func Decode(data []byte, l Limits) (image.Image, error) {
	l = l.orDefaults()
	if len(data) > l.Bytes {
		return nil, tooManyBytes(l)
	}
	if is := filetype.Of(data); !slices.Contains([]string{"png", "jpeg", "webp"}, is.ID) {
		return nil, fmt.Errorf("want a PNG, JPEG or WebP image, got %s", is.Name)
	}
	h, err := vision.ReadHeader(data)
	if err != nil {
		return nil, fmt.Errorf("not a valid image: %w", err)
	}
	// To resize lines of millions of pixels takes minutes, and gigabytes where the other side grows.
	if h.Width > l.Pixels/h.Height || max(h.Width, h.Height) > engine.MaxSide {
		return nil, fmt.Errorf("%w: it has %d×%d pixels, want at most %d in all, and %d on a side", ErrTooLarge, h.Width, h.Height, l.Pixels, engine.MaxSide)
	}
	m, err := vision.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("not a valid image: %w", err)
	}
	return m, nil
}

// Text decodes an image in base64, plain or as a data: URL, as [Decode] does.
func Text(s string, l Limits) (image.Image, error) {
	data, err := Base64(s, l)
	if err != nil {
		return nil, err
	}
	return Decode(data, l)
}

// Base64 returns the bytes of a file in base64, plain or as a data: URL, with or without padding and line breaks, in either alphabet. The
// media type of the URL is ignored.
func Base64(s string, l Limits) ([]byte, error) {
	l = l.orDefaults()
	const scheme = "data:"
	if len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme) {
		head, body, ok := strings.Cut(s, ",")
		if !ok || !strings.HasSuffix(strings.ToLower(head), ";base64") {
			return nil, errors.New("want a data: URL in base64: data:image/png;base64,…")
		}
		s = body
	}
	s = strings.TrimRight(strings.TrimSpace(s), "=")
	if len(s)/4 > l.Bytes/3+len(s)/64 { // line breaks take a part of it
		return nil, tooManyBytes(l)
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	data, err := encoding.DecodeString(s)
	switch {
	case err != nil || len(data) == 0:
		return nil, errors.New("want an image's bytes in base64; paths and URLs are not opened")
	case len(data) > l.Bytes:
		return nil, tooManyBytes(l)
	}
	return data, nil
}

func tooManyBytes(l Limits) error {
	return fmt.Errorf("%w: want at most %s", ErrTooLarge, filetype.Bytes(int64(l.Bytes)))
}
