package vision

import (
	"encoding/binary"
	"fmt"
	"image"
	"image/draw"
	"io"

	"github.com/onestep-go/onestep/torch/vision/internal/vp8l"
)

// EncodeWebP writes an image as a lossless WebP, with its texts in EXIF like [EncodeJPEG].
func EncodeWebP(w io.Writer, img image.Image, texts []Text) error {
	size := img.Bounds().Size()
	if size.X < 1 || size.Y < 1 || size.X > vp8l.MaxSide || size.Y > vp8l.MaxSide {
		return fmt.Errorf("webp: the image has %d×%d pixels: want 1 to %d per side; write a PNG", size.X, size.Y, vp8l.MaxSide)
	}
	pixels := image.NewNRGBA(image.Rectangle{Max: size})
	draw.Draw(pixels, pixels.Rect, img, img.Bounds().Min, draw.Src)
	out := []byte("RIFF\x00\x00\x00\x00WEBP")
	block := encodeExif(texts)
	if block != nil { // the extended file format (RFC 9649, 2.7) has a chunk of flags
		flags := byte(1 << 3) // EXIF
		if !pixels.Opaque() {
			flags |= 1 << 4 // alpha
		}
		x, y := size.X-1, size.Y-1
		out = appendChunk(out, "VP8X", []byte{flags, 0, 0, 0, byte(x), byte(x >> 8), byte(x >> 16), byte(y), byte(y >> 8), byte(y >> 16)})
	}
	out = appendChunk(out, "VP8L", vp8l.Encode(pixels))
	if block != nil {
		out = appendChunk(out, "EXIF", block)
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
	_, err := w.Write(out)
	return err
}

// appendChunk appends a RIFF chunk, padded to an even length.
func appendChunk(out []byte, kind string, body []byte) []byte {
	out = append(out, kind...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(body)))
	out = append(out, body...)
	if len(body)%2 == 1 {
		out = append(out, 0)
	}
	return out
}
