package weights

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/safetensors"
)

func numbers(name string, shape []int, values ...float32) safetensors.Source {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return safetensors.Source{Name: name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(data)}
}

func bytesOf(name string, d safetensors.DType, shape []int, data ...byte) safetensors.Source {
	return safetensors.Source{Name: name, DType: d, Shape: shape, Data: safetensors.Bytes(data)}
}

func valuesOf(t *testing.T, src nn.Source, name string) (out []float32) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		v, err := src.Get(s, name)
		require.NoError(t, err)
		out = torch.ToSlice[float32](v.To(s, torch.Float32).Contiguous(s))
		return nil
	}))
	return out
}

// Weights of scaled fp8 are their values times the scale, one or one for each output, under both names; the rest of the scheme is hidden.
func TestScaledFP8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scaled.safetensors")
	ones := []byte{0x38, 0x3c, 0xb8, 0x00, 0x7e, 0x01} // 1, 1.5, -1, 0, 448, 2⁻⁹
	const e4 = safetensors.F8E4M3
	require.NoError(t, safetensors.Write(path, []safetensors.Source{
		bytesOf("model.diffusion_model.scaled_fp8", e4, []int{0}),
		bytesOf("a.weight", e4, []int{2, 3}, ones...), numbers("a.scale_weight", nil, 0.25), numbers("a.scale_input", nil, 3), numbers("a.bias", []int{2}, 5, 6),
		bytesOf("b.weight", e4, []int{2, 3}, ones...), numbers("b.weight_scale", []int{2, 1}, 2, -0.5), numbers("b.input_scale", []int{1}, 7),
		bytesOf("b.comfy_quant", safetensors.U8, []int{2}, '{', '}'),
		bytesOf("c.weight", e4, []int{2, 3}, ones...),
		numbers("d.weight", []int{1, 2}, 3, 4), numbers("d.scale_weight", []int{1}, 2),
	}, safetensors.Options{Metadata: map[string]string{"k": "v"}}))
	w, err := OpenTensors(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	assert.Equal(t, "v", w.Metadata()["k"])
	got := map[string][]float32{}
	for name := range w.Names() {
		got[name] = valuesOf(t, w, name)
	}
	assert.Equal(t, map[string][]float32{
		"a.weight": {0.25, 0.375, -0.25, 0, 112, 0.25 / 512}, "a.bias": {5, 6}, "b.weight": {2, 3, -2, 0, -224, -0.5 / 512},
		"c.weight": {1, 1.5, -1, 0, 448, 1. / 512}, "d.weight": {6, 8},
	}, got)
	for name, want := range map[string]torch.DType{"a.weight": torch.Float32, "c.weight": torch.Float8E4M3} {
		_, d, ok := w.Info(name)
		require.True(t, ok)
		assert.Equal(t, want, d)
	}
	_, _, ok := w.Info("a.scale_weight")
	assert.False(t, ok)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, err := w.Get(s, "a.scale_weight")
		assert.Error(t, err)
		return nil
	}))

	for want, list := range map[string][]safetensors.Source{
		"lone.scale_weight": {numbers("lone.scale_weight", nil, 1)},
		"[3]":               {bytesOf("a.weight", e4, []int{2, 3}, ones...), numbers("a.scale_weight", []int{3}, 1, 1, 1)},
		"[0]":               {bytesOf("a.weight", e4, []int{2, 3}, ones...), numbers("a.scale_weight", []int{0})},
		"two scales":        {bytesOf("a.weight", e4, []int{2, 3}, ones...), numbers("a.scale_weight", nil, 1), numbers("a.weight_scale", nil, 1)},
		"floating-point":    {bytesOf("a.weight", safetensors.U8, []int{1, 1}, 0), numbers("a.scale_weight", nil, 1)},
	} {
		bad := filepath.Join(t.TempDir(), "bad.safetensors")
		require.NoError(t, safetensors.Write(bad, list, safetensors.Options{}))
		_, err := OpenTensors(bad)
		assert.ErrorContains(t, err, want)
	}
}

// A network whose weights are scaled computes with what they stand for, in a file of its own and in a directory; what is said of it is said once.
func TestScaledFP8Networks(t *testing.T) {
	dir := t.TempDir()
	var plain, scaled []safetensors.Source
	for _, s := range unet.Shapes(tinyUNet) {
		n := nn.Count([]nn.Shape{s})
		if len(s.Dims) < 2 { // as published: norms and biases are not
			one := numbers(s.Name, s.Dims, make([]float32, n)...)
			plain, scaled = append(plain, one), append(scaled, one)
			continue
		}
		small, large := make([]byte, n), make([]float32, n)
		for i := range small {
			v := float8s[safetensors.F8E4M3]
			small[i], large[i] = v.bytes[i%len(v.bytes)], v.want[i%len(v.bytes)]*0.001
		}
		layer := s.Name[:len(s.Name)-len(".weight")]
		plain = append(plain, numbers(s.Name, s.Dims, large...))
		scaled = append(scaled, bytesOf(s.Name, safetensors.F8E4M3, s.Dims, small...), numbers(layer+".scale_weight", nil, 0.001), numbers(layer+".scale_input", nil, 1))
	}
	scaled = append(scaled, bytesOf("scaled_fp8", safetensors.F8E4M3, []int{0}))
	config, err := tinyUNet.MarshalJSON()
	require.NoError(t, err)
	require.NoError(t, writeFile(filepath.Join(dir, "unet", "config.json"), config))
	want := filepath.Join(dir, "plain.safetensors")
	require.NoError(t, safetensors.Write(want, plain, safetensors.Options{}))
	path := filepath.Join(dir, "unet", "diffusion_pytorch_model.safetensors")
	require.NoError(t, safetensors.Write(path, scaled, safetensors.Options{}))
	a, err := OpenTensors(want)
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	b, err := OpenComponent(filepath.Join(dir, "unet"), Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	require.NoError(t, nn.Fits(b, unet.Shapes(tinyUNet)))
	for name := range a.Names() {
		assert.InDeltaSlice(t, valuesOf(t, a, name), valuesOf(t, b, name), 1e-9, name) // 0.001 is not exact, twice rounded in its own way
	}
	assert.Contains(t, b.notice, "scaled fp8")
	require.Equal(t, []string{path}, b.Files)
}
