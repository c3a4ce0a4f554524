package lora

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
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

// eighth is a source of 8-bit floats.
type eighth struct{ nn.Source }

func (v eighth) Info(name string) ([]int, torch.DType, bool) {
	shape, _, ok := v.Source.Info(name)
	return shape, torch.Float8E4M3, ok
}

func (v eighth) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	t, err := v.Source.Get(s, name)
	if err != nil {
		return nil, err
	}
	return t.To(s, torch.Float8E4M3), nil
}

// Weights of 8-bit floats that an adapter changes are written as float16, or in the type that is asked for: rounded to 8 bits again, most of
// the change would be lost. The others stay.
func TestMergeWeightsFloat8(t *testing.T) {
	base, err := tiny.Model("sd15")
	require.NoError(t, err)
	base.UNet.Source = eighth{base.UNet.Source}
	dir := t.TempDir()
	from := filepath.Join(dir, "base.safetensors")
	require.NoError(t, weights.WriteSingle(from, base, weights.WriteOptions{}))
	adapter := filepath.Join(dir, "a.safetensors")
	values := func(name string, shape []int, v float32) safetensors.Source {
		data := make([]byte, 4*shape[0]*shape[1])
		for i := 0; i < len(data); i += 4 {
			binary.LittleEndian.PutUint32(data[i:], math.Float32bits(v))
		}
		return safetensors.Source{Name: toQ + name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(data)}
	}
	require.NoError(t, safetensors.Write(adapter, []safetensors.Source{
		values(".lora_down.weight", []int{1, 16}, 0.5), values(".lora_up.weight", []int{16, 1}, 1./1024),
	}, safetensors.Options{}))
	bf16 := torch.BFloat16
	for _, as := range []*torch.DType{nil, &bf16} {
		m, err := weights.Open(from, weights.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		name := ""
		for n := range m.UNet.Names() {
			if "lora_unet_"+strings.ReplaceAll(strings.TrimSuffix(n, ".weight"), ".", "_") == toQ {
				name = n
			}
		}
		read := func(m *weights.Model, name string) (out []float32) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				v, err := m.UNet.Get(s, name)
				require.NoError(t, err)
				out = torch.ToSlice[float32](v.To(s, torch.Float32))
				return nil
			}))
			return out
		}
		before := read(m, name)
		f, err := Open(adapter)
		require.NoError(t, err)
		done, err := MergeWeights(m, as, Weighted{File: f, Weights: Weights{"": 1}})
		require.NoError(t, err)
		to := filepath.Join(t.TempDir(), "baked.safetensors")
		require.NoError(t, weights.WriteSingle(to, m, weights.WriteOptions{DType: as}))
		require.NoError(t, done())
		got, err := weights.Open(to, weights.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, got.Close()) }()
		_, d, _ := got.UNet.Info(name)
		_, other, _ := got.UNet.Info("conv_in.weight")
		want, kept, step := torch.Float16, torch.Float8E4M3, 1./2048
		if as != nil {
			want, kept, step = *as, *as, 1./256
		}
		require.Equal(t, want, d)
		require.Equal(t, kept, other)
		after, changed := read(got, name), 0
		for i := range after {
			v := float64(before[i]) + 0.5/1024
			require.InDelta(t, v, after[i], math.Abs(v)*step+1e-7) // one rounding to the type
			if after[i] != before[i] {
				changed++
			}
		}
		if as == nil {
			require.Greater(t, changed, len(after)*9/10)
		}
	}
}
