package vision

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"unicode/utf16"
)

// EncodeJPEG writes an image as a JPEG of quality 95, with its texts in EXIF as A1111 writes them: "parameters" as
// UserComment, "Software" as Software, and "onestep" as MakerNote. Alpha is composited on white. More than 64 kB of EXIF, the limit of a
// JPEG, is an error.
func EncodeJPEG(w io.Writer, img image.Image, texts []Text) error {
	return EncodeJPEGQuality(w, img, texts, 95)
}

// EncodeJPEGQuality is [EncodeJPEG] with a quality from 1 to 100.
func EncodeJPEGQuality(w io.Writer, img image.Image, texts []Text, quality int) error {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, OnWhite(img), &jpeg.Options{Quality: quality}); err != nil {
		return err
	}
	data := b.Bytes()
	var segment []byte
	if block := encodeExif(texts); block != nil {
		const most = 1<<16 - 1 - 2 // bytes of a segment
		body := append([]byte(exifHead), block...)
		if len(body) > most {
			return fmt.Errorf("jpeg: the metadata has %d bytes, a JPEG holds %d: write a PNG, or no metadata", len(body), most)
		}
		segment = binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(body)+2))
		segment = append(segment, body...)
	}
	for _, part := range [][]byte{data[:2], segment, data[2:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// encodeExif encodes the texts that have an EXIF field as a big-endian TIFF block; nil if there are none.
func encodeExif(texts []Text) []byte {
	type field struct {
		tag, kind uint16
		value     []byte
	}
	var first, second []field // in the order of their tags
	for _, t := range texts {
		switch t.Keyword {
		case "Software":
			first = append(first, field{tagSoftware, 2, append([]byte(t.Value), 0)})
		case "onestep":
			second = append([]field{{tagMakerNote, 7, append([]byte(maker), t.Value...)}}, second...)
		case Parameters:
			v := []byte("UNICODE\x00")
			for _, u := range utf16.Encode([]rune(t.Value)) {
				v = binary.BigEndian.AppendUint16(v, u)
			}
			second = append(second, field{tagComment, 7, v})
		}
	}
	if first == nil && second == nil {
		return nil
	}
	order := binary.BigEndian
	out := []byte("MM\x00\x2a\x00\x00\x00\x08")
	// directory appends a directory, followed by its values.
	directory := func(fields []field, more int) (pointer int) {
		n := len(fields) + more
		values := len(out) + 2 + 12*n + 4
		out = order.AppendUint16(out, uint16(n))
		var tail []byte
		for _, f := range fields {
			out = order.AppendUint16(order.AppendUint16(out, f.tag), f.kind)
			out = order.AppendUint32(out, uint32(len(f.value)))
			if len(f.value) <= 4 {
				out = append(out, append(f.value, 0, 0, 0, 0)[:4]...)
				continue
			}
			out = order.AppendUint32(out, uint32(values+len(tail)))
			tail = append(tail, f.value...)
			if len(tail)%2 == 1 {
				tail = append(tail, 0)
			}
		}
		if more > 0 {
			out = order.AppendUint16(order.AppendUint16(out, tagExif), 4)
			out = order.AppendUint32(out, 1)
			pointer = len(out)
			out = order.AppendUint32(out, 0)
		}
		out = append(order.AppendUint32(out, 0), tail...)
		return pointer
	}
	if second == nil {
		directory(first, 0)
		return out
	}
	at := directory(first, 1)
	order.PutUint32(out[at:], uint32(len(out)))
	directory(second, 0)
	return out
}
