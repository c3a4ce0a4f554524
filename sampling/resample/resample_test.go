package resample

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(t *testing.T, name string) image.Image {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".png")
	require.NoError(t, err)
	defer f.Close()
	m, err := png.Decode(f)
	require.NoError(t, err)
	return m
}

// Every pixel is Pillow's.
func TestResize(t *testing.T) {
	source := read(t, "source")
	for name, f := range map[string]Filter{"bilinear": Bilinear, "bicubic": Bicubic, "lanczos": Lanczos} {
		for _, size := range [][2]int{{16, 24}, {53, 24}, {100, 37}, {64, 64}, {7, 90}} {
			what := fmt.Sprintf("%s_%dx%d", name, size[0], size[1])
			want, got := read(t, what), Resize(source, size[0], size[1], f)
			require.Equal(t, want.Bounds(), got.Bounds(), what)
			for y := range size[1] {
				for x := range size[0] {
					require.Equal(t, color.NRGBAModel.Convert(want.At(x, y)), got.At(x, y), "%s at %d, %d", what, x, y)
				}
			}
		}
	}
	same := Resize(source, 53, 37, Lanczos)
	for y := range 37 {
		for x := range 53 {
			require.Equal(t, color.NRGBAModel.Convert(source.At(x, y)), same.At(x, y))
		}
	}
}
