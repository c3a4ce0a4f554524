package lora

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// oftCases writes each case of the golden file as an adapter, and returns the paths.
func oftCases(t *testing.T) map[string]string {
	t.Helper()
	f, err := safetensors.Open("testdata/oft.safetensors")
	require.NoError(t, err)
	by := map[string][]safetensors.Source{}
	for v := range f.Tensors() {
		name, key, _ := strings.Cut(v.Name, "/")
		by[name] = append(by[name], safetensors.Source{Name: key, DType: v.DType, Shape: v.Shape, Data: safetensors.Bytes(slices.Clone(v.Data))})
	}
	require.NoError(t, f.Close())
	paths := map[string]string{}
	for name, all := range by {
		paths[name] = filepath.Join(t.TempDir(), name+".safetensors")
		require.NoError(t, safetensors.Write(paths[name], all, safetensors.Options{}))
	}
	return paths
}

// OFT and BOFT change weights as LyCORIS does, of linear layers and convolutions, with and without a bound and factors, at any weight, also read
// back from what is written. Both compute in float32: differences are within 2e-6, as for other adapters.
func TestRotationsAreLyCORIS(t *testing.T) {
	m := openTiny(t, "sd15")
	n := Of(m)
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	golden, _ := torchtest.Golden(t, s, "testdata/oft-deltas.safetensors")
	cases := oftCases(t)
	require.Len(t, cases, 8)
	for name, path := range cases {
		a, err := Load(m, path, Options{})
		require.NoError(t, err, name)
		defer a.Close()
		require.Len(t, a.Modules, 1)
		require.Equal(t, map[bool]Kind{true: Butterfly, false: Rotation}[strings.HasPrefix(name, "boft")], a.Modules[0].Kind)
		kept := filepath.Join(t.TempDir(), "kept.safetensors")
		require.NoError(t, a.Write(kept, WriteOptions{Layout: Kohya}))
		again, err := Load(m, kept, Options{})
		require.NoError(t, err, name)
		defer again.Close()
		for _, weight := range []float64{1, 0.6} {
			want := torch.ToSlice[float32](golden[fmt.Sprintf("%s/%.1f", name, weight)])
			got := deltas(t, n, a.At(weight))
			require.Len(t, got, 1)
			for layer, delta := range got {
				require.InDeltaSlice(t, want, delta, 2e-6, "%s at %g: %s", name, weight, layer)
				require.InDeltaSlice(t, delta, deltas(t, n, again.At(weight))[layer], 1e-7, name)
			}
		}
		require.Empty(t, a.At(0))
		require.Error(t, a.Write(kept+"2", WriteOptions{Layout: PEFT}), "it has no names for them")
	}
}

// A turn keeps the lengths of a weight's columns within each block: it is orthogonal.
func TestRotationKeepsLengths(t *testing.T) {
	m := openTiny(t, "sd15")
	a, err := Load(m, oftCases(t)["boft"], Options{})
	require.NoError(t, err)
	defer a.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for w, by := range a.At(1) {
			sum := w.Clone(s)
			by[0].AddTo(s, sum, w)
			before, after := torch.ToSlice[float32](w.Square(s).SumDim(s, false, 0)), torch.ToSlice[float32](sum.Square(s).SumDim(s, false, 0))
			require.InDeltaSlice(t, before, after, 1e-5)
			require.Greater(t, sum.Sub(s, w).Norm(s).Item(), 0.5)
		}
		return nil
	}))
}

// Blocks that do not make the outputs of a layer are refused with the numbers.
func TestRotationsThatDoNotFit(t *testing.T) {
	m := openTiny(t, "sd15")
	floats := func(end string, shape ...int) safetensors.Source {
		n := 4
		for _, d := range shape {
			n *= d
		}
		return safetensors.Source{Name: toQ + end, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, n))}
	}
	for want, all := range map[string][]safetensors.Source{
		"16 outputs":                                   {floats(".oft_blocks", 2, 4, 4)},
		"5 stages of blocks of 2":                      {floats(".oft_blocks", 5, 8, 2, 2)},
		"1 stages of blocks of 1":                      {floats(".oft_blocks", 1, 16, 1, 1)},
		"factor for each of 16":                        {floats(".oft_blocks", 4, 4, 4), floats(".rescale", 4, 1)},
		"want square blocks":                           {floats(".oft_blocks", 4, 4, 0)},
		"unexpected tensor up in a module of type OFT": {floats(".oft_blocks", 4, 4, 4), floats(".lora_up.weight", 4, 4)},
		"alpha: want one number":                       {floats(".oft_blocks", 4, 4, 4), floats(".alpha", 2)},
		"it has rescale only":                          {floats(".rescale", 16, 1)},
		"or [stages, blocks, b, b]":                    {floats(".oft_blocks", 16)},
	} {
		path := filepath.Join(t.TempDir(), "a.safetensors")
		require.NoError(t, safetensors.Write(path, all, safetensors.Options{}))
		_, err := Load(m, path, Options{})
		require.ErrorContains(t, err, want)
	}
}
