// Package halves compresses files of 16-bit floating-point numbers, such as a model's weights in half precision. A number's high byte has the
// sign, the exponent and the first bits of the mantissa, and is predictable: weights of trained networks need 5.6 of its 8 bits. The low byte
// is noise, which keeps a compressor that sees both from finding the rest. So the two halves are compressed apart.
//
// A packed file is the length of the first stream in bytes, as 8 bytes in little-endian order; that stream, of the bytes at even positions;
// and the stream of those at odd positions. Both are DEFLATE (RFC 1951), whose Huffman codes come near the entropy of these bytes.
package halves

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Pack compresses data. The same data gives the same bytes with the same version of Go.
func Pack(data []byte) ([]byte, error) {
	var half [2][]byte
	for i, b := range data {
		half[i%2] = append(half[i%2], b)
	}
	packed := make([]byte, 8)
	for i, data := range half {
		var z bytes.Buffer
		w, err := flate.NewWriter(&z, flate.BestCompression)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		packed = append(packed, z.Bytes()...)
		if i == 0 {
			binary.LittleEndian.PutUint64(packed, uint64(z.Len()))
		}
	}
	return packed, nil
}

// Unpack writes the data that was packed to w, and no more than most bytes. It holds no more than small buffers.
func Unpack(w io.Writer, packed []byte, most int64) error {
	if len(packed) < 8 {
		return fmt.Errorf("a packed file has at least 8 bytes, got %d", len(packed))
	}
	n, streams := binary.LittleEndian.Uint64(packed), packed[8:]
	if n > uint64(len(streams)) {
		return fmt.Errorf("a packed file's first stream has %d bytes, of %d that follow", n, len(streams))
	}
	var half [2]*bufio.Reader
	for i, stream := range [][]byte{streams[:n], streams[n:]} {
		half[i] = bufio.NewReader(flate.NewReader(bytes.NewReader(stream)))
	}
	to := bufio.NewWriter(w)
	for i := int64(0); ; i++ {
		b, err := half[i%2].ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			if _, err := half[(i+1)%2].ReadByte(); !errors.Is(err, io.EOF) {
				return errors.Join(errors.New("the streams of a packed file have different lengths"), err)
			}
			return to.Flush()
		case err != nil:
			return fmt.Errorf("unpacking: %w", err)
		case i == most:
			return fmt.Errorf("a packed file has more than %d bytes", most)
		}
		if err := to.WriteByte(b); err != nil {
			return err
		}
	}
}
