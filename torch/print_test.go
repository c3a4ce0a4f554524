package torch_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Elements are printed as PyTorch prints them, to the character; scripts/golden/torch/print.py makes the same tensors.
func TestPrintsAsPyTorch(t *testing.T) {
	var golden struct {
		Cases map[string]string
	}
	data, err := os.ReadFile("testdata/print.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &golden))
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		f32 := func(v ...float32) *torch.Tensor { return torch.FromSlice(s, v) }
		ramp := func(shape ...int) *torch.Tensor {
			n := 1
			for _, d := range shape {
				n *= d
			}
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(i%97)/8 - 1
			}
			return torch.FromSlice(s, v, shape...)
		}
		complexOf := func(re, im *torch.Tensor) *torch.Tensor {
			r, err := torch.Call(s, "complex", re, im)
			require.NoError(t, err)
			return r[0].(*torch.Tensor)
		}
		cases := map[string]*torch.Tensor{
			"scalar": torch.Scalar(s, float32(3.25)), "scalar whole": torch.Scalar(s, float32(3)), "scalar int": torch.Scalar(s, int64(-7)),
			"scalar bool": torch.Scalar(s, true), "scalar nan": torch.Scalar(s, nan),
			"empty": torch.Zeros(s, torch.Float32, 0, 3), "empty inside": torch.Zeros(s, torch.Float32, 2, 0), "one": f32(1.5),
			"fractions": f32(0.1, -2.5, 3, 10, 0, 999.125).Reshape(s, 2, 3), "whole floats": f32(1, -20, 300, 0).Reshape(s, 2, 2),
			"zeros": torch.Zeros(s, torch.Float32, 2, 2), "negative zero": f32(float32(math.Copysign(0, -1)), 1),
			"wide range": f32(1e-3, 1, 12345.678), "small": f32(1e-5, 2e-5), "large": f32(1e9, 2e9), "large whole": f32(1e8, 2e5),
			"not finite": f32(nan, inf, -inf, 1.5), "not finite whole": f32(nan, -inf, 2), "not finite only": f32(nan, inf, -inf, 0), "not finite sci": f32(nan, -inf, 1e-7),
			"float64": torch.FromSlice(s, []float64{0.123456789, 1e3}), "float64 tiny": torch.FromSlice(s, []float64{1e-300, 1}),
			"float16": f32(0.1, 1000, -65504).To(s, torch.Float16), "bfloat16": f32(0.1, 3).To(s, torch.BFloat16),
			"float8_e4m3fn": f32(0.5, -448, 0.0625).To(s, torch.Float8E4M3), "float8_e5m2": f32(0.5, -57344).To(s, torch.Float8E5M2),
			"int64": torch.FromSlice(s, []int64{1, -200, 30, 1<<53 + 1}, 2, 2), "int32": torch.FromSlice(s, []int32{-5, 12}), "uint8": torch.FromSlice(s, []uint8{0, 255, 7}),
			"bool": torch.FromSlice(s, []bool{true, false, true, true}, 2, 2), "bool all true": torch.FromSlice(s, []bool{true, true}),
			"complex64": complexOf(f32(1.5, -2), f32(-0.25, 1000)), "complex128 scalar": complexOf(torch.Scalar(s, 1.0), torch.Scalar(s, -2.0)),
			"three dimensions": ramp(2, 2, 3), "four dimensions": ramp(2, 1, 2, 2), "long line": ramp(30), "long rows": ramp(2, 25),
			"all of a thousand": ramp(1000), "a thousand and one": ramp(1001), "summarised ints": torch.Arange(s, 5000, torch.Int64).SubScalar(s, 17),
			"summarised rows": ramp(2000, 2), "summarised columns": ramp(2, 2000), "summarised both": ramp(100, 100), "summarised at the edge": ramp(7, 200),
			"not summarised inside": ramp(6, 200), "summarised image": ramp(2, 3, 64, 64), "five dimensions": ramp(8, 7, 1, 9, 8),
			"summarised half": ramp(3, 500).To(s, torch.BFloat16), "summarised float8": ramp(40, 50).To(s, torch.Float8E4M3), "summarised bool": ramp(50, 50).GtScalar(s, 3),
			"summarised complex": complexOf(ramp(30, 40), ramp(30, 40).Neg(s)), "transposed": ramp(3, 4).Transpose(s, 0, 1), "expanded": ramp(3).Expand(s, 2, 3),
		}
		require.Len(t, cases, len(golden.Cases))
		for name, x := range cases {
			want, ok := golden.Cases[name]
			require.True(t, ok, name)
			got := x.String()
			require.True(t, strings.HasPrefix(got, "tensor("+want+","), "%s: got\n%s\nwant\n%s", name, got, want)
			require.Equal(t, got, fmt.Sprint(x))
			require.Equal(t, got, fmt.Sprintf("%v", x))
			about := strings.TrimPrefix(got, "tensor("+want+",")
			require.Contains(t, about, "[", "the shape")
		}
		for name, want := range map[string]string{"empty": "float32[0, 3]", "int64": "int64[2, 2]", "complex64": "complex64[2]", "float8_e5m2": "float8_e5m2[2]", "summarised image": "float32[2, 3, 64, 64]"} {
			require.True(t, strings.HasSuffix(cases[name].String(), want+")"), cases[name].String())
		}
		return nil
	}))
}

// What is printed is bounded, whatever the shape, and nothing that can be held ends the program.
func TestPrintIsBounded(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		one := torch.Ones(s, torch.Float32)
		for _, c := range []struct {
			shape []int
			want  string
		}{
			{[]int{6, 6, 6, 6, 6, 6, 6}, "..."}, // no dimension is long
			{[]int{1 << 30, 1 << 30}, "..."},
			{[]int{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, "tensor(float32[2, 2, 2"},
			{append(make([]int, 0), 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 500), "..."},
		} {
			text := one.Expand(s, c.shape...).String()
			require.Contains(t, text, c.want)
			require.Less(t, len(text), 1<<18)
		}
		live := torch.Live()
		r, err := torch.Call(s, "to_sparse_csr", torch.Eye(s, 3, torch.Float32))
		require.NoError(t, err)
		require.Contains(t, r[0].(*torch.Tensor).String(), "float32[3, 3]")
		r[0].(*torch.Tensor).Free()
		require.Equal(t, live, torch.Live()-1) // Eye
		w := torch.Ones(s, torch.Float32, 1)
		w.SetRequiresGrad(true)
		require.Equal(t, "tensor([1.], float32[1], requires_grad)", w.String())
		require.Equal(t, "tensor(nil)", (*torch.Tensor)(nil).String())
		w.Free()
		require.Equal(t, "tensor(freed)", w.String())
		return nil
	}))
}

// Tensors on a GPU are copied to be printed, the edges alone where they are large.
func TestPrintCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	require.NoError(t, torch.Run(torch.CUDA(0), func(s *torch.Scope) error {
		require.Equal(t, "tensor([1.0000, 0.5000], float32[2] on cuda:0)", torch.FromSlice(s, []float32{1, 0.5}).String())
		require.Equal(t, "tensor([   0,    1,    2,  ..., 1998, 1999, 2000], int64[2001] on cuda:0)", torch.Arange(s, 2001, torch.Int64).String())
		return nil
	}))
}
