package halves

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// weights are numbers as in a network in half precision, as far as their bytes go: signs and mantissas are random, exponents are not.
func weights(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b []byte
	for range n {
		exponent := uint16(min(r.ExpFloat64(), 12)) // 0 in 63% of the cases
		b = binary.LittleEndian.AppendUint16(b, uint16(r.Uint32())&0x83ff|(13-exponent)<<10)
	}
	return b
}

func TestPack(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4095, 4096, 100_001} {
		data := weights(n)[:n] // odd lengths, too
		packed, err := Pack(data)
		require.NoError(t, err)
		var got bytes.Buffer
		require.NoError(t, Unpack(&got, packed, int64(n)))
		require.True(t, bytes.Equal(data, got.Bytes()), "%d bytes", n)
		if n > 0 {
			require.ErrorContains(t, Unpack(&bytes.Buffer{}, packed, int64(n-1)), "more than")
		}
	}
}

// The exponents' 1.6 bits of entropy leave 12.6 of 16 bits.
func TestPackSize(t *testing.T) {
	data := weights(1 << 18)
	packed, err := Pack(data)
	require.NoError(t, err)
	require.InDelta(t, 12.6/16, float64(len(packed))/float64(len(data)), 0.01)
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestUnpackRefuses(t *testing.T) {
	packed, err := Pack(weights(100_000))
	require.NoError(t, err)
	short, err := Pack(make([]byte, 3))
	require.NoError(t, err)
	long := append([]byte{}, packed...)
	binary.LittleEndian.PutUint64(long, uint64(len(packed)))
	first := 8 + binary.LittleEndian.Uint64(short) // streams of 2 bytes and of 1, swapped
	uneven := binary.LittleEndian.AppendUint64(nil, uint64(len(short))-first)
	uneven = append(append(uneven, short[first:]...), short[8:first]...)
	for name, data := range map[string][]byte{
		"empty": nil, "no streams": packed[:8], "cut": packed[:len(packed)-10], "first": packed[:1000], "too long": long,
		"uneven":  uneven,
		"damaged": append(binary.LittleEndian.AppendUint64(nil, 4), 0xff, 0xff, 0xff, 0xff),
	} {
		require.Error(t, Unpack(&bytes.Buffer{}, data, 1<<20), name)
	}
	require.ErrorContains(t, Unpack(full{}, packed, 1<<20), "full")
}
