package vision

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
)

// Tags of EXIF 2.3 that are read and written here.
const (
	tagDescription = 0x010e
	tagOrientation = 0x0112
	tagSoftware    = 0x0131
	tagExif        = 0x8769 // offset of a second directory
	tagMakerNote   = 0x927c
	tagComment     = 0x9286
)

const exifHead = "Exif\x00\x00"

// maxExif is the number of bytes read of an EXIF block. In a JPEG it has at most 64 kB; in PNG and WebP it may contain a thumbnail.
const maxExif = 4 << 20

// exif holds the fields of an EXIF block that are used here.
type exif struct {
	orientation int // 1 (upright) to 8; 0: missing
	fields      map[uint16][]byte
	order       binary.ByteOrder
}

// Orientation finds the EXIF orientation of a PNG, JPEG or WebP file, 1 (upright) to 8 (EXIF 2.3, 4.6.4 A); 1 if it is missing
// or unreadable.
func Orientation(data []byte) int {
	x, err := exifOf(bufio.NewReader(bytes.NewReader(data)))
	if err != nil || x.orientation < 1 || x.orientation > 8 {
		return 1
	}
	return x.orientation
}

// exifOf reads the EXIF block of a file; without one it returns the zero value.
func exifOf(r *bufio.Reader) (exif, error) {
	head, _ := r.Peek(12)
	var block []byte
	var err error
	switch {
	case bytes.HasPrefix(head, []byte(pngSignature)):
		block, err = pngExif(r)
	case isWebP(head):
		block, err = webpExif(r)
	case bytes.HasPrefix(head, []byte{0xff, 0xd8}):
		block, err = jpegExif(r)
	}
	return parseExif(bytes.TrimPrefix(block, []byte(exifHead))), err
}

func pngExif(r *bufio.Reader) ([]byte, error) {
	_, _ = r.Discard(len(pngSignature))
	for range maxChunks {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, errors.New("png: the end chunk is missing")
		}
		n, kind := int64(binary.BigEndian.Uint32(head[:4])), string(head[4:])
		switch {
		case kind == "IEND":
			return nil, nil
		case kind == "eXIf" && n <= maxExif:
			return readN(r, n)
		}
		if _, err := discard(r, n+4); err != nil {
			return nil, fmt.Errorf("png: chunk %s is truncated", quote.Quoted(kind))
		}
	}
	return nil, fmt.Errorf("png: it has more than %d chunks", maxChunks)
}

// jpegExif searches the segments before the first scan.
func jpegExif(r *bufio.Reader) ([]byte, error) {
	_, _ = r.Discard(2)
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:2]); err != nil || head[0] != 0xff {
			return nil, err
		}
		for head[1] == 0xff { // fill bytes
			var err error
			if head[1], err = r.ReadByte(); err != nil {
				return nil, err
			}
		}
		if head[1] == 0xda || head[1] == 0xd9 {
			return nil, nil
		}
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return nil, err
		}
		n := int64(binary.BigEndian.Uint16(head[2:])) - 2
		if n < 0 {
			return nil, nil
		}
		if start, _ := r.Peek(len(exifHead)); head[1] == 0xe1 && n >= int64(len(exifHead)) && string(start) == exifHead {
			return readN(r, n)
		}
		if _, err := discard(r, n); err != nil {
			return nil, err
		}
	}
}

func webpExif(r *bufio.Reader) ([]byte, error) {
	_, _ = r.Discard(12)
	for range maxChunks {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, nil // the end
		}
		n := int64(binary.LittleEndian.Uint32(head[4:]))
		if string(head[:4]) == "EXIF" && n <= maxExif {
			return readN(r, n)
		}
		if _, err := discard(r, n+n%2); err != nil {
			return nil, nil
		}
	}
	return nil, fmt.Errorf("webp: it has more than %d chunks", maxChunks)
}

// readN reads n bytes, or fewer at the end of the file; it allocates no more than the file has.
func readN(r io.Reader, n int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, n))
}

// parseExif reads a TIFF block; damaged fields are skipped.
func parseExif(tiff []byte) exif {
	x := exif{fields: map[uint16][]byte{}}
	if len(tiff) < 8 {
		return x
	}
	x.order = binary.LittleEndian
	if tiff[0] == 'M' {
		x.order = binary.BigEndian
	}
	x.directory(tiff, int64(x.order.Uint32(tiff[4:])), true)
	return x
}

// directory reads the fields of the directory at an offset.
func (x *exif) directory(tiff []byte, at int64, first bool) {
	if at+2 > int64(len(tiff)) {
		return
	}
	entries := tiff[at+2:]
	for n := int(x.order.Uint16(tiff[at:])); n > 0 && len(entries) >= 12; n, entries = n-1, entries[12:] {
		tag, kind, count := x.order.Uint16(entries), x.order.Uint16(entries[2:]), int64(x.order.Uint32(entries[4:]))
		switch tag {
		case tagOrientation:
			if v := int(x.order.Uint16(entries[8:])); first && v >= 1 && v <= 8 && x.orientation == 0 {
				x.orientation = v
			}
		case tagExif:
			if first {
				x.directory(tiff, int64(x.order.Uint32(entries[8:])), false)
			}
		case tagDescription, tagSoftware, tagMakerNote, tagComment:
			if kind != 1 && kind != 2 && kind != 7 { // bytes, text, anything
				continue
			}
			value := entries[8:12]
			if count > 4 {
				from := int64(x.order.Uint32(entries[8:]))
				if from+count > int64(len(tiff)) {
					continue
				}
				value = tiff[from : from+count]
			} else {
				value = value[:count]
			}
			if x.fields[tag] == nil && count <= maxText {
				x.fields[tag] = value
			}
		}
	}
}

// maker is the prefix of onestep's MakerNote.
const maker = "onestep\x00"

// texts returns the text fields, under the keywords of PNG text chunks.
func (x exif) texts() (out []Text) {
	if v := x.comment(); v != "" {
		out = append(out, Text{Parameters, v})
	}
	for _, f := range []struct {
		tag     uint16
		keyword string
	}{{tagSoftware, "Software"}, {tagDescription, "Description"}} {
		if v := strings.TrimSpace(strings.TrimRight(plainText(x.fields[f.tag]), "\x00")); v != "" {
			out = append(out, Text{f.keyword, v})
		}
	}
	if v, ok := bytes.CutPrefix(x.fields[tagMakerNote], []byte(maker)); ok {
		out = append(out, Text{"onestep", string(v)})
	}
	return out
}

// comment decodes UserComment, whose first eight bytes name its encoding. "UNICODE" is UTF-16, by the standard in the file's byte order;
// piexif, which A1111 uses, always writes big-endian: the order in which more of the high bytes are zero is taken.
func (x exif) comment() string {
	v := x.fields[tagComment]
	if len(v) < 8 {
		return ""
	}
	code, v := string(v[:8]), v[8:]
	if code != "UNICODE\x00" {
		if code != "ASCII\x00\x00\x00" && code != strings.Repeat("\x00", 8) {
			return strings.TrimRight(plainText(x.fields[tagComment]), "\x00 ") // without a code, as some programs write it
		}
		return strings.TrimRight(plainText(v), "\x00 ")
	}
	var order binary.ByteOrder = binary.BigEndian
	even, odd := 0, 0
	for i := 0; i+1 < len(v); i += 2 {
		if v[i] == 0 {
			even++
		}
		if v[i+1] == 0 {
			odd++
		}
	}
	if odd > even || odd == even && x.order == binary.LittleEndian {
		order = binary.LittleEndian
	}
	units := make([]uint16, len(v)/2)
	for i := range units {
		units[i] = order.Uint16(v[2*i:])
	}
	return strings.TrimRight(strings.TrimPrefix(string(utf16.Decode(units)), "\ufeff"), "\x00 ")
}

func plainText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return fromLatin1(b)
}

func isWebP(head []byte) bool {
	return len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP"
}
