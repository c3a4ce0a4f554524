package vp8l

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/image/webp"
)

// file puts a bitstream into the simplest container.
func file(stream []byte) []byte {
	out := append([]byte("RIFF\x00\x00\x00\x00WEBPVP8L"), binary.LittleEndian.AppendUint32(nil, uint32(len(stream)))...)
	out = append(out, stream...)
	if len(out)%2 == 1 {
		out = append(out, 0)
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
	return out
}

func roundTrip(t testing.TB, m *image.NRGBA) []byte {
	data := Encode(m)
	got, err := webp.Decode(bytes.NewReader(file(data)))
	require.NoError(t, err)
	require.Equal(t, m.Rect.Size(), got.Bounds().Size())
	for i := range m.Rect.Dx() * m.Rect.Dy() {
		x, y := i%m.Rect.Dx(), i/m.Rect.Dx()
		if want, got := m.NRGBAAt(x, y), color.NRGBAModel.Convert(got.At(x, y)); want != got {
			t.Fatalf("at %d, %d: got %v, want %v", x, y, got, want)
		}
	}
	return data
}

// Codes of skewed counts keep to the longest length, and are complete: each sequence of bits is a symbol's.
func TestCodes(t *testing.T) {
	fibonacci := []int{1, 1}
	for len(fibonacci) < 40 {
		fibonacci = append(fibonacci, fibonacci[len(fibonacci)-1]+fibonacci[len(fibonacci)-2])
	}
	for _, longest := range []int{longestLength, longestCode} {
		c := newCode(fibonacci, longest)
		require.Equal(t, longest, slices.Max(c.lengths))
		sum := 0
		for _, n := range c.lengths {
			sum += 1 << (longest - n)
		}
		require.Equal(t, 1<<longest, sum)
	}
	require.Equal(t, []int{0, 1, 0}, lengthsOf([]int{0, 5, 0}, 15))
}

// Lengths of repetitions and distances go from 1 to the largest.
func TestPrefix(t *testing.T) {
	for _, v := range []int{1, 2, 4, 5, 6, 7, 8, 9, 100, longestRun, farthest + 120} {
		symbol, extra, n := prefix(v)
		low := symbol
		if symbol >= 4 {
			low = (2 + symbol&1) << ((symbol - 2) >> 1)
		}
		require.Equal(t, v, low+int(extra)+1)
		require.Less(t, extra, uint64(1)<<max(n, 1))
		require.Less(t, symbol, distanceCodes)
	}
	symbol, _, _ := prefix(longestRun)
	require.Less(t, symbol, lengthCodes)
}

// Images of all kinds come back as they are; those of a gradient and of one colour are small.
func TestEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		m := image.NewNRGBA(image.Rect(0, 0, 1+r.IntN(70), 1+r.IntN(70)))
		kind, step := r.IntN(5), 1+r.IntN(9)
		for i := range m.Pix {
			switch at := i / 4; {
			case i%4 == 3 && kind != 4:
				m.Pix[i] = 255
			case kind == 0:
				m.Pix[i] = uint8(r.IntN(256))
			case kind == 1:
				m.Pix[i] = uint8(at / step * 40)
			case kind == 2:
				m.Pix[i] = uint8(at%m.Rect.Dx() + r.IntN(3))
			case kind == 3:
				m.Pix[i] = uint8(r.IntN(2) * 255)
			default:
				m.Pix[i] = uint8(1 + at%200)
			}
		}
		roundTrip(t, m)
	}
	flat := image.NewNRGBA(image.Rect(0, 0, 1000, 700))
	smooth := image.NewNRGBA(image.Rect(0, 0, 300, 300))
	for i := range flat.Pix {
		flat.Pix[i] = 255
	}
	for i := range smooth.Pix {
		smooth.Pix[i] = uint8(i/4%300/2 + i/1200/3)
		if i%4 == 3 {
			smooth.Pix[i] = 255
		}
	}
	require.Less(t, len(roundTrip(t, flat)), 500)
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, smooth))
	require.Less(t, len(roundTrip(t, smooth)), b.Len())
}

func FuzzEncode(f *testing.F) {
	f.Add(3, []byte("\x00\x01\x02\xff\x00\x01\x02\xff\x00\x01\x02\xff\x00\x01\x02\xff"))
	f.Fuzz(func(t *testing.T, across int, pix []byte) {
		if across < 1 || across > 64 || len(pix) < 4*across || len(pix) > 1<<14 {
			return
		}
		h := len(pix) / 4 / across
		m := &image.NRGBA{Pix: pix[:4*across*h], Stride: 4 * across, Rect: image.Rect(0, 0, across, h)}
		for i := 3; i < len(m.Pix); i += 4 { // colours of what is not seen are not compared
			m.Pix[i] = max(m.Pix[i], 1)
		}
		roundTrip(t, m)
	})
}
