// Package filetype detects the type of a file by its first bytes, for messages about files of an unexpected type.
package filetype

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// Type is a file type.
type Type struct {
	ID   string // a short name, such as "jpeg"; "" for an unknown one
	Name string // with its article: "a JPEG image"; "a file of unknown format"
	Hint string // what to do if a model was expected; often ""
}

// String returns the name with the hint.
func (t Type) String() string {
	if t.Hint == "" {
		return t.Name
	}
	return t.Name + ": " + t.Hint
}

// Known reports whether the type is known.
func (t Type) Known() bool { return t.ID != "" }

// Head is the number of bytes that [Of] uses.
const Head = 512

// Read detects the type of the file at path. Files that are not regular are not opened: reading a pipe would block.
func Read(path string) (Type, error) {
	f, _, err := plainfile.Open(path)
	if err != nil {
		return Type{}, err
	}
	defer f.Close()
	head := make([]byte, Head)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Type{}, err
	}
	return Of(head[:n]), nil
}

// signatures are formats with fixed bytes at an offset. The first match counts.
var signatures = []struct {
	at    int
	magic string
	Type
}{
	{0, "\x89PNG\r\n\x1a\n", Type{ID: "png", Name: "a PNG image"}},
	{0, "\xff\xd8\xff", Type{ID: "jpeg", Name: "a JPEG image"}},
	{8, "WEBP", Type{ID: "webp", Name: "a WebP image"}},
	{0, "GIF87a", Type{ID: "gif", Name: "a GIF image"}},
	{0, "GIF89a", Type{ID: "gif", Name: "a GIF image"}},
	{6, "\x00\x00\x00\x00", Type{ID: "bmp", Name: "a BMP image"}}, // if it begins with BM
	{0, "II*\x00", Type{ID: "tiff", Name: "a TIFF image"}},
	{0, "MM\x00*", Type{ID: "tiff", Name: "a TIFF image"}},
	{0, "8BPS", Type{ID: "psd", Name: "a Photoshop image"}},
	{0, "qoif", Type{ID: "qoi", Name: "a QOI image"}},
	{0, "\x00\x00\x00\x0cJXL \r\n\x87\n", Type{ID: "jxl", Name: "a JPEG XL image"}},
	{0, "\x00\x00\x00\x0cjP  \r\n\x87\n", Type{ID: "jp2", Name: "a JPEG 2000 image"}},
	{4, "ftypavif", Type{ID: "avif", Name: "an AVIF image"}},
	{4, "ftypavis", Type{ID: "avif", Name: "an AVIF image"}},
	{4, "ftyphei", Type{ID: "heic", Name: "a HEIC image"}},
	{4, "ftypmif1", Type{ID: "heic", Name: "a HEIC image"}},
	{4, "ftyp", Type{ID: "mp4", Name: "an MP4 or QuickTime video"}},
	{0, "\x1a\x45\xdf\xa3", Type{ID: "matroska", Name: "a Matroska or WebM video"}},
	{8, "AVI ", Type{ID: "avi", Name: "an AVI video"}},
	{8, "WAVE", Type{ID: "wav", Name: "a WAV sound file"}},
	{0, "OggS", Type{ID: "ogg", Name: "an Ogg sound or video file"}},
	{0, "fLaC", Type{ID: "flac", Name: "a FLAC sound file"}},
	{0, "ID3", Type{ID: "mp3", Name: "an MP3 sound file"}},

	{0, "PK\x03\x04", Type{ID: "zip", Name: "a zip archive"}},
	{0, "PK\x05\x06", Type{ID: "zip", Name: "an empty zip archive"}},
	{0, "\x1f\x8b", Type{ID: "gzip", Name: "a gzip-compressed file"}},
	{0, "BZh", Type{ID: "bzip2", Name: "a bzip2-compressed file"}},
	{0, "\xfd7zXZ\x00", Type{ID: "xz", Name: "an xz-compressed file"}},
	{0, "\x28\xb5\x2f\xfd", Type{ID: "zstd", Name: "a Zstandard-compressed file"}},
	{0, "7z\xbc\xaf\x27\x1c", Type{ID: "7z", Name: "a 7-Zip archive"}},
	{0, "Rar!\x1a\x07", Type{ID: "rar", Name: "a RAR archive"}},
	{257, "ustar", Type{ID: "tar", Name: "a tar archive"}},

	{0, "\x00\x00\x08\x03", Type{ID: "idx", Name: "an IDX file of images"}},
	{0, "\x00\x00\x08\x01", Type{ID: "labels", Name: "an IDX file of labels"}},
	{0, "GGUF", Type{ID: "gguf", Name: "a GGUF model", Hint: "that format is not supported: use the model's .safetensors file"}},
	{0, "\x80\x02", Type{ID: "pickle", Name: "a Python pickle"}},
	{0, "\x80\x03", Type{ID: "pickle", Name: "a Python pickle"}},
	{0, "\x80\x04", Type{ID: "pickle", Name: "a Python pickle"}},
	{0, "\x80\x05", Type{ID: "pickle", Name: "a Python pickle"}},
	{0, "\x93NUMPY", Type{ID: "numpy", Name: "a NumPy array"}},
	{0, "\x89HDF\r\n\x1a\n", Type{ID: "hdf5", Name: "an HDF5 file"}},
	{4, "TFL3", Type{ID: "tflite", Name: "a TensorFlow Lite model"}},
	{0, "PAR1", Type{ID: "parquet", Name: "a Parquet table"}},
	{0, "ARROW1", Type{ID: "arrow", Name: "an Arrow table"}},
	{0, "SQLite format 3\x00", Type{ID: "sqlite", Name: "an SQLite database"}},
	{0, "%PDF-", Type{ID: "pdf", Name: "a PDF document"}},
	{0, "\x7fELF", Type{ID: "elf", Name: "a Linux program or library"}},
	{0, "MZ", Type{ID: "exe", Name: "a Windows program or library"}},
}

// Of detects a file's type by its first [Head] bytes, or all of a shorter file.
func Of(head []byte) Type {
	head = head[:min(len(head), Head)]
	if len(head) == 0 {
		return Type{ID: "empty", Name: "an empty file"}
	}
	if safetensors(head) { // first: its length may look like the beginning of a pickle
		return Type{ID: "safetensors", Name: "a safetensors file"}
	}
	for _, s := range signatures {
		switch {
		case len(head) < s.at || !bytes.HasPrefix(head[s.at:], []byte(s.magic)):
		case s.ID == "bmp" && !bytes.HasPrefix(head, []byte("BM")):
		case s.at == 8 && !bytes.HasPrefix(head, []byte("RIFF")):
		case s.ID == "zip" && bytes.Contains(head, []byte("/data.pkl")):
			return Type{ID: "zip", Name: "a zip archive of torch.save (PyTorch)", Hint: "rename it to .ckpt or .pt"}
		default:
			return s.Type
		}
	}
	switch {
	case bytes.Contains(head[:min(len(head), 64)], []byte("brain.Event:")):
		return Type{ID: "events", Name: "an event file of TensorBoard"}
	case head[0] == 8 && bytes.Contains(head[:min(len(head), 32)], []byte("pytorch")):
		return Type{ID: "onnx", Name: "an ONNX model", Hint: "that format is not supported: use the model's .safetensors file"}
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return Type{ID: "text", Name: "a text file"} // UTF-16
	case isText(head):
		return text(string(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))))
	}
	return Type{Name: "a file of unknown format"}
}

// safetensors reports whether a file begins with a header length and the start of a JSON header.
func safetensors(head []byte) bool {
	return len(head) > 8 && head[8] == '{' && head[4] == 0 && head[5] == 0 && head[6] == 0 && head[7] == 0
}

// isText reports whether the bytes are UTF-8 without control characters. The last character may be truncated.
func isText(head []byte) bool {
	for at := 0; at < len(head); {
		r, n := utf8.DecodeRune(head[at:])
		switch {
		case r == utf8.RuneError && n <= 1:
			return len(head) == Head && at >= Head-3 && !utf8.FullRune(head[at:])
		case r < ' ' && !strings.ContainsRune("\t\n\r\f\x1b", r), r == 0x7f:
			return false
		}
		at += n
	}
	return true
}

// text distinguishes kinds of text files.
func text(s string) Type {
	s = strings.TrimLeft(s, " \t\r\n")
	lower := strings.ToLower(s)
	first, _, _ := strings.Cut(s, "\n")
	starts := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(lower, p) {
				return true
			}
		}
		return false
	}
	switch {
	case starts("version https://git-lfs"):
		hint := "fetch the file itself with git lfs pull"
		if n := pointedSize(s); n > 0 {
			hint = fmt.Sprintf("fetch the file itself (%s) with git lfs pull", Bytes(n))
		}
		return Type{ID: "lfs", Name: "a Git LFS pointer", Hint: hint}
	case starts("<!doctype html", "<html", "<head"):
		return Type{ID: "html", Name: "a web page", Hint: "download the file itself"}
	case starts("<svg"):
		return Type{ID: "svg", Name: "an SVG image"}
	case starts("<?xml"):
		return Type{ID: "xml", Name: "an XML file"}
	case starts("{", "["):
		return Type{ID: "json", Name: "a JSON file"}
	case starts("#!") && strings.Contains(first, "python"), starts("import ", "from ", "def ", "class ", `"""`):
		return Type{ID: "python", Name: "a Python script"}
	case starts("#!"):
		return Type{ID: "script", Name: "a script"}
	}
	return Type{ID: "text", Name: "a text file"}
}

// pointedSize reads the size in a Git LFS pointer; 0 if there is none.
func pointedSize(s string) int64 {
	for line := range strings.Lines(s) {
		if word, ok := strings.CutPrefix(line, "size "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(word), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// Bytes writes a number of bytes in decimal units with three digits: "4.27 GB", "512 bytes".
func Bytes(n int64) string {
	if n == 1 {
		return "1 byte"
	}
	if n < 1000 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, units := float64(n)/1000, "kMGTPE"
	for v >= 999.5 && len(units) > 1 {
		v, units = v/1000, units[1:]
	}
	digits := 2
	if v >= 99.95 {
		digits = 0
	} else if v >= 9.995 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %cB", digits, v, units[0])
}
