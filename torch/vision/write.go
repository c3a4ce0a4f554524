package vision

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Write writes an image with texts, atomically: as a JPEG if the path ends in .jpg, .jpeg, .jpe or .jfif, and as a PNG otherwise. Without overwrite a file that exists
// is an error that wraps fs.ErrExist. A process that is killed meanwhile leaves nothing behind where the file system has files without
// names (O_TMPFILE), which all common ones of Linux do.
func Write(path string, img image.Image, texts []Text, overwrite bool) error {
	if !overwrite {
		if _, err := os.Lstat(path); err == nil {
			return &fs.PathError{Op: "write", Path: path, Err: fs.ErrExist}
		}
	}
	var b bytes.Buffer
	encode := EncodePNG
	if IsJPEG(path) {
		encode = EncodeJPEG
	}
	if err := encode(&b, img, texts); err != nil {
		return fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	return place(path, b.Bytes(), overwrite)
}

// IsJPEG tells whether a path has an ending of JPEGs.
func IsJPEG(path string) bool {
	return slices.Contains([]string{".jpg", ".jpeg", ".jpe", ".jfif"}, strings.ToLower(filepath.Ext(path)))
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
