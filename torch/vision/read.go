package vision

import (
	"fmt"
	"image"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// Limits of [Read].
const (
	maxBytes = 256 << 20
	maxSide  = 16384
)

// Read reads an image file as [Decode] does: a PNG, JPEG, GIF, BMP or WebP of at most 256 MiB, and of at most 16384 pixels on a side.
func Read(path string) (image.Image, error) {
	data, err := plainfile.Read(path, maxBytes)
	if err != nil {
		return nil, err
	}
	m, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: want a PNG, JPEG, GIF, BMP or WebP file", quote.Path(path), err)
	}
	if b := m.Bounds(); b.Dx() > maxSide || b.Dy() > maxSide {
		return nil, fmt.Errorf("%s: it has %d×%d pixels: want at most %d on a side", quote.Path(path), b.Dx(), b.Dy(), maxSide)
	}
	return m, nil
}
