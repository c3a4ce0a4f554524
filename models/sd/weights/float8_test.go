package weights

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// The bytes of 8-bit floats, and their values by the types' definitions (Micikevicius et al. 2022, table 1; e4m3fn has no infinity).
var float8s = map[safetensors.DType]struct {
	dtype torch.DType
	bytes []byte
	want  []float32
}{
	safetensors.F8E4M3: {torch.Float8E4M3, []byte{0x00, 0x01, 0x38, 0xb8, 0x3c, 0x7e}, []float32{0, 0.001953125, 1, -1, 1.5, 448}},
	safetensors.F8E5M2: {torch.Float8E5M2, []byte{0x00, 0x01, 0x3c, 0xbc, 0x3e, 0x7b}, []float32{0, 1.52587890625e-05, 1, -1, 1.5, 57344}},
}

// Weights of 8-bit floats are computed with, and written, in any other type; without one they stay as they are.
func TestFloat8(t *testing.T) {
	for name, c := range float8s {
		t.Run(string(name), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "unet.safetensors")
			var list []safetensors.Source
			for _, s := range unet.Shapes(tinyUNet) {
				n := nn.Count([]nn.Shape{s})
				data := make([]byte, n)
				for i := range data {
					data[i] = c.bytes[i%len(c.bytes)]
				}
				list = append(list, safetensors.Source{Name: s.Name, DType: name, Shape: s.Dims, Data: safetensors.Bytes(data)})
			}
			require.NoError(t, safetensors.Write(path, list, safetensors.Options{}))
			w, err := torch.OpenWeights(path)
			require.NoError(t, err)
			defer func() { require.NoError(t, w.Close()) }()
			net, err := unet.From(tinyUNet, w, torch.CPU, torch.Float32)
			require.NoError(t, err)
			net.Close()

			first := list[0].Name
			for _, to := range []*torch.DType{nil, new(torch.DType)} { // as it is, and float32
				out, err := source(w, first, to)
				require.NoError(t, err)
				again := filepath.Join(dir, "again.safetensors")
				require.NoError(t, safetensors.Write(again, []safetensors.Source{out}, safetensors.Options{Overwrite: true}))
				v, err := torch.OpenWeights(again)
				require.NoError(t, err)
				_, d, _ := v.Info(first)
				assert.Equal(t, map[bool]torch.DType{true: c.dtype, false: torch.Float32}[to == nil], d)
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					x, err := v.Get(s, first)
					require.NoError(t, err)
					got := torch.ToSlice[float32](x.To(s, torch.Float32))
					for i, want := range c.want {
						if i < len(got) {
							assert.InDelta(t, want, got[i], 0)
						}
					}
					return nil
				}))
				require.NoError(t, v.Close())
			}
		})
	}
}
