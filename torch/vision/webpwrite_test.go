package vision

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision/internal/vp8l"
)

// noisy is an image with patches of one colour, gradients, noise and, if it is not opaque, alpha.
func noisy(r *rand.Rand, w, h int, opaque bool) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		x, y := i%w, i/w
		c := color.NRGBA{uint8(x * 3), uint8(y * 5), uint8(x + y), 255}
		switch (x/7 + y/5) % 3 {
		case 0:
			c.R, c.G, c.B = uint8(r.IntN(256)), uint8(r.IntN(256)), uint8(r.IntN(256))
		case 1:
			c.R, c.G, c.B = 200, 10, 10
		}
		if !opaque {
			c.A = uint8(1 + r.IntN(255))
		}
		m.SetNRGBA(x, y, c)
	}
	return m
}

func pixelsOf(m image.Image) []uint8 {
	out := image.NewNRGBA(image.Rectangle{Max: m.Bounds().Size()})
	draw.Draw(out, out.Rect, m, m.Bounds().Min, draw.Src)
	return out.Pix
}

// A WebP holds the very pixels, with and without texts, of any size, and reads back with its texts.
func TestEncodeWebP(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := []Text{{Parameters, "a テスト 🙂\nNegative prompt: b\nSteps: 4"}, {"Software", "onestep"}, {"onestep", `{"prompt": "a"}`}}
	for _, size := range [][2]int{{1, 1}, {2, 1}, {1, 3}, {7, 5}, {16, 16}, {33, 65}, {64, 48}, {257, 3}, {3, 300}, {vp8l.MaxSide, 1}, {1, vp8l.MaxSide}} {
		for _, opaque := range []bool{true, false} {
			for _, told := range [][]Text{nil, texts} {
				what := fmt.Sprint(size, opaque, len(told))
				m := noisy(r, size[0], size[1], opaque)
				var b bytes.Buffer
				require.NoError(t, EncodeWebP(&b, m, told), what)
				got, err := Decode(b.Bytes())
				require.NoError(t, err, what)
				require.Equal(t, pixelsOf(m), pixelsOf(got), what)
				found, err := ReadTexts(&b)
				require.NoError(t, err, what)
				require.Equal(t, told, found, what)
			}
		}
	}
	// Of one colour, of few, grey, and a part of a larger image.
	palette := image.NewPaletted(image.Rect(0, 0, 9, 9), color.Palette{color.White, color.Black})
	palette.SetColorIndex(3, 3, 1)
	for _, m := range []image.Image{filled(20, 30, 9), palette, image.NewGray(image.Rect(0, 0, 5, 5)), noisy(r, 40, 40, true).SubImage(image.Rect(3, 4, 30, 37))} {
		var b bytes.Buffer
		require.NoError(t, EncodeWebP(&b, m, texts))
		got, err := Decode(b.Bytes())
		require.NoError(t, err)
		require.Equal(t, pixelsOf(m), pixelsOf(got))
	}
	long := []Text{{Parameters, strings.Repeat("a", 100_000)}} // more than a JPEG has room for
	var b bytes.Buffer
	require.NoError(t, EncodeWebP(&b, filled(2, 2, 1), long))
	found, err := ReadTexts(&b)
	require.NoError(t, err)
	require.Equal(t, long, found)
	require.ErrorContains(t, EncodeWebP(&b, image.NewGray(image.Rect(0, 0, vp8l.MaxSide+1, 1)), nil), "16384")

	path := filepath.Join(t.TempDir(), "x.WebP")
	require.NoError(t, Write(path, filled(3, 2, 7), WriteOptions{Texts: texts}))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	found, err = ReadTexts(f)
	require.NoError(t, err)
	require.Equal(t, texts, found)
	require.True(t, IsWritten(path) && IsWritten("a.png") && IsWritten("a.JPG") && !IsWritten("a.gif") && !IsWritten("a"))
}

// Pillow reads the same pixels and the same UserComment, as A1111 does, with ONESTEP_PYTHON.
func TestWebPInPillow(t *testing.T) {
	python := os.Getenv("ONESTEP_PYTHON")
	if python == "" {
		t.Skip("ONESTEP_PYTHON is not set to a Python with Pillow")
	}
	dir := t.TempDir()
	const comment = "a テスト\nSteps: 4"
	for name, opaque := range map[string]bool{"a": true, "b": false} {
		m := noisy(rand.New(rand.NewPCG(3, 4)), 61, 47, opaque)
		require.NoError(t, Write(filepath.Join(dir, name+".webp"), m, WriteOptions{Texts: []Text{{Parameters, comment}, {"Software", "onestep"}}}))
		require.NoError(t, Write(filepath.Join(dir, name+".png"), m, WriteOptions{}))
	}
	out, err := exec.Command(python, "-c", `
import json, sys
from PIL import Image
out = {}
for name in "ab":
    a, b = (Image.open(f"{sys.argv[1]}/{name}.{ext}") for ext in ("webp", "png"))
    exif = a.getexif()
    comment = exif.get_ifd(0x8769)[0x9286]
    out[name] = [a.mode, list(a.convert("RGBA").tobytes()) == list(b.convert("RGBA").tobytes()), comment[8:].decode("utf-16-be"), exif[0x131]]
print(json.dumps(out))`, dir).Output()
	require.NoError(t, err, string(out))
	var got map[string][]any
	require.NoError(t, json.Unmarshal(out, &got), string(out))
	require.Equal(t, []any{"RGB", true, comment, "onestep"}, got["a"])
	require.Equal(t, []any{"RGBA", true, comment, "onestep"}, got["b"])
}
