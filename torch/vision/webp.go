package vision

import (
	"encoding/binary"
	"errors"
	"image"
)

var errWebP = errors.New("webp: the file is truncated")

// webpFrame is the first frame of a WebP file, as a separate file.
type webpFrame struct {
	data   []byte
	canvas image.Point // size of the canvas
	at     image.Point // offset of the frame on the canvas
}

// firstFrame finds the first frame of a WebP file, still or animated, in its container (RFC 9649, 2.7); the decoder does not support
// animations.
func firstFrame(data []byte) (*webpFrame, error) {
	var f webpFrame
	var alpha []byte
	// frame finds the chunks of an image.
	frame := func(body []byte) (bool, error) {
		for len(body) >= 8 {
			kind, chunk, rest, err := webpChunk(body)
			if err != nil {
				return false, err
			}
			switch kind {
			case "ALPH":
				alpha = body[:len(body)-len(rest)]
			case "VP8 ", "VP8L":
				f.data = riff(kind, body[:len(body)-len(rest)], alpha, chunk)
				return true, nil
			}
			body = rest
		}
		return false, nil
	}
	body := data[12:]
	for range maxChunks {
		if len(body) < 8 {
			break
		}
		kind, chunk, rest, err := webpChunk(body)
		if err != nil {
			return nil, err
		}
		switch kind {
		case "VP8X":
			if len(chunk) < 10 {
				return nil, errWebP
			}
			f.canvas = image.Pt(int(le24(chunk[4:]))+1, int(le24(chunk[7:]))+1)
		case "ANMF":
			if len(chunk) < 16 || f.canvas == (image.Point{}) {
				return nil, errWebP
			}
			f.at = image.Pt(2*int(le24(chunk)), 2*int(le24(chunk[3:])))
			if ok, err := frame(chunk[16:]); ok || err != nil {
				return &f, err
			}
			return nil, errors.New("webp: its first frame has no image")
		case "ALPH", "VP8 ", "VP8L":
			if kind != "ALPH" && f.canvas == (image.Point{}) { // a file with one chunk
				f.canvas = frameSize(kind, chunk)
			}
			ok, err := frame(body)
			if ok || err != nil {
				return &f, err
			}
		}
		body = rest
	}
	return nil, errors.New("webp: it has no image")
}

// webpChunk splits off a chunk.
func webpChunk(data []byte) (kind string, body, rest []byte, err error) {
	n := int64(binary.LittleEndian.Uint32(data[4:]))
	if n > int64(len(data)-8) {
		return "", nil, nil, errWebP
	}
	body, rest = data[8:8+n], data[8+n:]
	if n%2 == 1 && len(rest) > 0 {
		rest = rest[1:]
	}
	return string(data[:4]), body, rest, nil
}

// riff makes a file of an image's chunk and its alpha chunk.
func riff(kind string, chunk, alpha, body []byte) []byte {
	out := make([]byte, 12, 12+18+len(alpha)+len(chunk)+2)
	copy(out, "RIFF\x00\x00\x00\x00WEBP")
	if size := frameSize(kind, body); kind == "VP8 " && alpha != nil {
		out = append(out, "VP8X\x0a\x00\x00\x00\x10\x00\x00\x00"...)
		w, h := uint32(size.X-1), uint32(size.Y-1)
		out = append(out, byte(w), byte(w>>8), byte(w>>16), byte(h), byte(h>>8), byte(h>>16))
		out = append(out, alpha...)
	}
	out = append(out, chunk...)
	if len(out)%2 == 1 {
		out = append(out, 0)
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
	return out
}

// frameSize reads the size in the header of a lossy (RFC 6386, 9.1) or lossless (RFC 9649, 3.4) frame; for a damaged one it is 1×1.
func frameSize(kind string, body []byte) image.Point {
	switch {
	case kind == "VP8 " && len(body) >= 10:
		return image.Pt(max(int(binary.LittleEndian.Uint16(body[6:])&0x3fff), 1), max(int(binary.LittleEndian.Uint16(body[8:])&0x3fff), 1))
	case kind == "VP8L" && len(body) >= 5:
		v := binary.LittleEndian.Uint32(body[1:])
		return image.Pt(int(v&0x3fff)+1, int(v>>14&0x3fff)+1)
	}
	return image.Pt(1, 1)
}

func le24(b []byte) uint32 { return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 }
