package vision

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
)

// WriteOptions are the metadata of a file, and whether it may replace one that exists.
type WriteOptions struct {
	Texts     []Text
	Overwrite bool
}

// Write writes an image, atomically, in the format of the path's extension: .png, .jpg, .jpeg, .jpe and .jfif, or .webp; any
// other is a PNG. Without Overwrite a file that exists is an error that wraps fs.ErrExist. A process that is killed while writing leaves no
// file behind if the file system supports unnamed files (O_TMPFILE), as all common Linux file systems do.
func Write(path string, img image.Image, o WriteOptions) error {
	encode := EncodePNG
	switch {
	case IsJPEG(path):
		encode = EncodeJPEG
	case strings.EqualFold(filepath.Ext(path), ".webp"):
		encode = EncodeWebP
	}
	return atomicfile.Write(path, atomicfile.Options{Overwrite: o.Overwrite}, func(w io.Writer) error { return encode(w, img, o.Texts) })
}

// IsJPEG reports whether a path has the extension of a JPEG.
func IsJPEG(path string) bool {
	return slices.Contains([]string{".jpg", ".jpeg", ".jpe", ".jfif"}, strings.ToLower(filepath.Ext(path)))
}

// IsWritten reports whether a path has the extension of a format that [Write] writes.
func IsWritten(path string) bool {
	return IsJPEG(path) || slices.Contains([]string{".png", ".webp"}, strings.ToLower(filepath.Ext(path)))
}

// EncodePNG writes an image with text chunks after its header: Latin-1 text as tEXt, other text as iTXt in UTF-8.
func EncodePNG(w io.Writer, img image.Image, texts []Text) error {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	chunks, err := encodeTexts(texts)
	if err != nil {
		return err
	}
	data := b.Bytes()
	const header = len(pngSignature) + 4 + 4 + 13 + 4 // and IHDR
	for _, part := range [][]byte{data[:header], chunks, data[header:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}
