package dataset

import (
	"encoding/binary"
	"hash/crc32"
)

// pngOf is a PNG that declares a size and holds next to nothing.
func pngOf(w, h int) []byte {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
	b = binary.BigEndian.AppendUint32(b, uint32(w))
	b = binary.BigEndian.AppendUint32(b, uint32(h))
	b = append(b, 16, 6, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
}

// bombs are small files that declare large images.
func bombs() map[string][]byte {
	gif := []byte("GIF89a\xff\xff\xff\xff\x80\x00\x00\xff\x00\x00\x00\xff\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x03\x04\x80\x02\x00;")
	jpeg := append([]byte("\xff\xd8\xff\xc0\x00\x11\x08"), 0xff, 0xff, 0xff, 0xff, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xd9)
	webp := []byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\xff\xff\xff\x0f\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	bmp := append([]byte("BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00"), 0, 64, 0, 0, 0, 64, 0, 0, 1, 0, 24, 0)
	return map[string][]byte{
		"png": pngOf(1<<31-1, 1<<31-1), "png below the limit": pngOf(8192, 8192), "png of 9 million": pngOf(3000, 3000),
		"gif": gif, "jpeg": jpeg, "webp": webp, "bmp": append(bmp, make([]byte, 24)...),
	}
}
