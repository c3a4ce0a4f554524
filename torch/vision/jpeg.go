package vision

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of JPEGs, checked before decoding. Decoding a progressive JPEG keeps the coefficients of all blocks, 4 bytes each, and every scan
// goes over them again. libjpeg writes 10 scans, and tools that search for the best script up to about 25.
const (
	maxCoefficients = 80 << 20 // 320 MiB: 26 million pixels of 4:4:4, 53 of 4:2:0
	mostScans       = 100
	mostPlainScans  = 4 // one for each component, in a JPEG that is not progressive
)

// checkJPEG checks that decoding takes no more time and memory than for a normal file.
func checkJPEG(data []byte) error {
	progressive, scans := false, 0
	for at := 2; at+4 <= len(data); {
		if data[at] != 0xff {
			// Entropy-coded data, or garbage, which decoders skip: find the next marker.
			n := bytes.IndexByte(data[at:], 0xff)
			if n < 0 {
				return nil
			}
			at += n
			continue
		}
		marker := data[at+1]
		switch {
		case marker == 0xff:
			at++
			continue
		case marker == 0 || marker == 1 || marker >= 0xd0 && marker <= 0xd8: // markers inside scans, without a length
			at += 2
			continue
		case marker == 0xd9:
			return nil
		}
		n := int(binary.BigEndian.Uint16(data[at+2:]))
		if n < 2 || at+2+n > len(data) {
			return nil // truncated: the decoder reports it
		}
		switch body := data[at+4 : at+2+n]; marker {
		case 0xc2:
			progressive = true
			if c := coefficients(body); c > maxCoefficients {
				return fmt.Errorf("jpeg: a progressive JPEG with %d million coefficients: want at most %d million; save it as baseline or smaller", c>>20, maxCoefficients>>20)
			}
		case 0xda:
			scans++
			if scans > mostScans || !progressive && scans > mostPlainScans {
				return errors.New("jpeg: it has too many scans")
			}
		}
		at += 2 + n
	}
	return nil
}

// coefficients counts the coefficients of a frame's components, by its header (ITU-T T.81, B.2.2).
func coefficients(sof []byte) int {
	if len(sof) < 6 || len(sof) < 6+3*int(sof[5]) {
		return 0
	}
	h, w := int(binary.BigEndian.Uint16(sof[1:])), int(binary.BigEndian.Uint16(sof[3:]))
	sum := 0
	parts := sof[6:]
	tall, wide := 1, 1
	for i := range int(sof[5]) {
		v := parts[3*i+1]
		wide, tall = max(wide, int(v>>4)), max(tall, int(v&15))
		sum += int(v>>4) * int(v&15)
	}
	return w * h / (wide * tall) * sum
}
