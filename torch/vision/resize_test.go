package vision

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func readResized(t *testing.T, name string) image.Image {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(read(t, "testdata/resize/"+name+".png")))
	require.NoError(t, err)
	return m
}

// Every pixel is Pillow's.
func TestResize(t *testing.T) {
	source := readResized(t, "source")
	for name, f := range map[string]Filter{"bilinear": Bilinear, "bicubic": Bicubic, "lanczos": Lanczos} {
		for _, size := range [][2]int{{16, 24}, {53, 24}, {100, 37}, {64, 64}, {7, 90}} {
			what := fmt.Sprintf("%s_%dx%d", name, size[0], size[1])
			want, got := readResized(t, what), Resize(source, size[0], size[1], f)
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

// The quick ways to a image's colours are those of its At.
func TestResizeColours(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(p []uint8) {
		for i := range p {
			p[i] = uint8(r.Uint32())
		}
	}
	area := image.Rect(3, 5, 20, 16)
	var all []image.Image
	for _, ratio := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio420} {
		m := image.NewYCbCr(area, ratio)
		fill(m.Y)
		fill(m.Cb)
		fill(m.Cr)
		all = append(all, m)
	}
	n := image.NewNRGBA(area)
	fill(n.Pix)
	for _, m := range append(all, n) {
		for _, size := range []image.Point{{17, 11}, {8, 20}, {30, 4}} {
			want := Resize(struct{ image.Image }{m}, size.X, size.Y, Lanczos)
			if got := Resize(m, size.X, size.Y, Lanczos); !bytes.Equal(got.Pix, want.Pix) {
				t.Errorf("%T at %v is not what its colours give", m, size)
			}
		}
	}
}
