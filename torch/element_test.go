package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// Every 8- and 16-bit pattern, and a few of the others, is the number that libtorch reads.
func TestElement(t *testing.T) {
	wide := []byte{0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0xF0, 0x7F, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF9, 0xF8, 0x9A, 0x99, 0x99, 0x3F, 0x9A, 0x99, 0xB9, 0xBF}
	for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Float16, torch.BFloat16, torch.Float8E4M3, torch.Float8E5M2, torch.Int64, torch.Int32, torch.Uint8, torch.Bool} {
		var data []byte
		switch {
		case d == torch.Bool:
			data = []byte{0, 1}
		case d.Size() == 1:
			for i := range 1 << 8 {
				data = append(data, byte(i))
			}
		case d.Size() == 2:
			for i := range 1 << 16 {
				data = append(data, byte(i), byte(i>>8))
			}
		default:
			data = wide
		}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			want := torch.ToSlice[float64](torch.FromBytes(s, data, d, len(data)/d.Size()).To(s, torch.Float64))
			for i, w := range want {
				got := d.Element(data[i*d.Size():])
				require.True(t, got == w && math.Signbit(got) == math.Signbit(w) || math.IsNaN(got) && math.IsNaN(w), "%s, % x: got %g, want %g", d, data[i*d.Size():][:d.Size()], got, w)
			}
			return nil
		}))
	}
}
