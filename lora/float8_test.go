package lora

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// An adapter of 8-bit floats is what its values are in float32, in both types, and keeps them when it is converted. Values that are not
// finite are found in them, too.
func TestFloat8(t *testing.T) {
	m := openTiny(t, "sd15")
	n := Of(m)
	for d, one := range map[safetensors.DType]struct{ half, nan byte }{safetensors.F8E4M3: {0x30, 0x7f}, safetensors.F8E5M2: {0x38, 0x7f}} { // 0.5
		dir := t.TempDir()
		write := func(name string, first byte) string {
			down, up := make([]byte, 2*16), make([]byte, 16*2)
			for i := range down {
				down[i], up[i] = one.half+byte(i%3), one.half
			}
			down[0] = first
			path := filepath.Join(dir, name)
			require.NoError(t, safetensors.Write(path, []safetensors.Source{
				{Name: toQ + ".lora_down.weight", DType: d, Shape: []int{2, 16}, Data: safetensors.Bytes(down)},
				{Name: toQ + ".lora_up.weight", DType: d, Shape: []int{16, 2}, Data: safetensors.Bytes(up)},
			}, safetensors.Options{}))
			return path
		}
		path := write("a", one.half)
		a, err := Load(m, path, Options{})
		require.NoError(t, err)
		got := deltas(t, n, a.At(1))
		require.NoError(t, a.Close())
		for _, delta := range got {
			require.Equal(t, float32(0.5*(0.5+valueOf(d, one.half+1))), delta[0]) // rows 0 and 1 of down, columns 0 and 16%3
		}
		f, err := Open(path)
		require.NoError(t, err)
		for i, to := range []*torch.DType{nil, new(torch.DType)} {
			out := filepath.Join(dir, string(rune('b'+i)))
			require.NoError(t, f.Write(out, nil, WriteOptions{Layout: Kohya, DType: to}))
			requireDeltas(t, got, n, out, 0)
		}
		require.NoError(t, f.Close())
		_, err = Load(m, write("nan", one.nan), Options{})
		require.ErrorContains(t, err, "not finite")
	}
}

// valueOf is the value of a positive normal 8-bit float: mantissas of 3 and 2 bits, biases of 7 and 15.
func valueOf(d safetensors.DType, b byte) float64 {
	bits, bias := 3, 7
	if d == safetensors.F8E5M2 {
		bits, bias = 2, 15
	}
	v := 1 + float64(b&(1<<bits-1))/float64(int(1)<<bits)
	for e := int(b>>bits) - bias; e < 0; e++ {
		v /= 2
	}
	return v
}
