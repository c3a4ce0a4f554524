package main

import (
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Samples in bfloat16 are those of float32 but for rounding, from the same file; other names of the type are known, and types that are none
// refused.
func TestSampleDType(t *testing.T) {
	dir := t.TempDir()
	pixels := func(dtype string) (all []float64) {
		path := filepath.Join(dir, dtype+".png")
		code, _, stderr := try("sample", "--model", "builtin", "--n", "1", "--seed", "3", "--dtype", dtype, "--out", path)
		require.Zero(t, code, stderr)
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		img, err := png.Decode(f)
		require.NoError(t, err)
		for y := range img.Bounds().Dy() {
			for x := range img.Bounds().Dx() {
				r, g, b, _ := img.At(x, y).RGBA()
				all = append(all, float64(r>>8), float64(g>>8), float64(b>>8))
			}
		}
		return all
	}
	want := pixels("f32")
	mean, differ := 0.0, 0
	for i, v := range pixels("bfloat16") {
		if d := v - want[i]; d != 0 {
			differ++
			mean += max(d, -d) / float64(len(want))
		}
	}
	t.Logf("%d values of %d differ, by %.2g of 255 in the mean", differ, len(want), mean)
	require.Positive(t, differ)
	require.Less(t, mean, 2.0)
	code, _, stderr := try("sample", "--model", "builtin", "--dtype", "f64", "--out", filepath.Join(dir, "x.png"))
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "--dtype")
}
