package upload

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const pictures = "../../../torch/vision/testdata/"

func file(t *testing.T, path string) []byte {
	data, err := os.ReadFile(filepath.Join(pictures, path))
	require.NoError(t, err)
	return data
}

// encoded returns a PNG of one colour.
func encoded(t *testing.T, w, h int) []byte {
	var b bytes.Buffer
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = 200
	}
	require.NoError(t, png.Encode(&b, m))
	return b.Bytes()
}

func TestFormatsByContent(t *testing.T) {
	for path, size := range map[string]image.Point{
		"quadrants/rgba.png": {X: 16, Y: 16}, "quadrants/progressive.jpg": {X: 16, Y: 16}, "quadrants/alpha_lossy.webp": {X: 16, Y: 16},
		"orient/6.jpg": {X: 32, Y: 16}, "orient/8.png": {X: 32, Y: 16}, "orient/5.webp": {X: 32, Y: 16}, // upright
	} {
		m, err := Decode(file(t, path), Limits{})
		require.NoError(t, err, path)
		assert.Equal(t, size, m.Bounds().Size(), path)
	}
	m, err := Decode(file(t, "animated/lossless.webp"), Limits{})
	require.NoError(t, err)
	first, err := png.Decode(bytes.NewReader(file(t, "animated/lossless.png")))
	require.NoError(t, err)
	for i := range first.Bounds().Dx() {
		assert.Equal(t, color.NRGBAModel.Convert(first.At(i, i)), color.NRGBAModel.Convert(m.At(i, i)))
	}

	var animated bytes.Buffer
	require.NoError(t, gif.Encode(&animated, image.NewPaletted(image.Rect(0, 0, 4, 4), color.Palette{color.White}), nil))
	for name, data := range map[string][]byte{
		"nothing": nil, "gif": animated.Bytes(), "bmp": file(t, "quadrants/rgb.bmp"),
		"svg": []byte(`<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>`), "zip": []byte("PK\x03\x04" + strings.Repeat("x", 100)),
		"cut png": encoded(t, 64, 64)[:60], "gif that ends as a png": append(animated.Bytes(), encoded(t, 4, 4)...),
	} {
		_, err := Decode(data, Limits{})
		assert.Error(t, err, name)
	}
	// A file that goes on behind the image is an image: nothing reads the rest.
	m, err = Decode(append(encoded(t, 4, 4), "PK\x03\x04<script>"...), Limits{})
	require.NoError(t, err)
	assert.Equal(t, 4, m.Bounds().Dx())
}

func TestLimits(t *testing.T) {
	data := encoded(t, 30, 20)
	_, err := Decode(data, Limits{Bytes: len(data), Pixels: 600})
	require.NoError(t, err)
	_, err = Decode(data, Limits{Pixels: 599})
	assert.ErrorIs(t, err, ErrTooLarge)
	_, err = Decode(data, Limits{Bytes: len(data) - 1})
	assert.ErrorIs(t, err, ErrTooLarge)
	_, err = Decode(encoded(t, 1, 1<<14), Limits{})
	require.NoError(t, err)
	for _, size := range [][2]int{{1, 1<<14 + 1}, {1<<14 + 1, 1}, {1 << 20, 16}} {
		_, err = Decode(encoded(t, size[0], size[1]), Limits{})
		assert.ErrorIs(t, err, ErrTooLarge)
		assert.ErrorContains(t, err, "and 16384 on a side")
	}
	text := base64.StdEncoding.EncodeToString(data)
	_, err = Text(text, Limits{Bytes: len(data)})
	assert.NoError(t, err)
	_, err = Text(text, Limits{Bytes: len(data) - 1})
	assert.ErrorIs(t, err, ErrTooLarge)
	_, err = Text(strings.Repeat("A", 1<<20), Limits{Bytes: 1000})
	assert.ErrorIs(t, err, ErrTooLarge)
}

// A header that declares a large image allocates nothing.
func TestBomb(t *testing.T) {
	bomb := encoded(t, 8, 8)
	binary.BigEndian.PutUint32(bomb[16:], 40_000)
	binary.BigEndian.PutUint32(bomb[20:], 40_000)
	binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Decode(bomb, Limits{Pixels: 1 << 40})
	runtime.ReadMemStats(&after)
	require.Error(t, err)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestText(t *testing.T) {
	data := encoded(t, 6, 5)
	plain := base64.StdEncoding.EncodeToString(data)
	broken := ""
	for at := 0; at < len(plain); at += 76 {
		broken += plain[at:min(at+76, len(plain))] + "\r\n"
	}
	for name, s := range map[string]string{
		"plain": plain, "unpadded": strings.TrimRight(plain, "="), "url alphabet": base64.URLEncoding.EncodeToString(data), "lines": broken,
		"data": "data:image/png;base64," + plain, "wrong type": "DATA:text/html;charset=utf-8;BASE64," + plain,
	} {
		m, err := Text(s, Limits{})
		require.NoError(t, err, name)
		assert.Equal(t, image.Pt(6, 5), m.Bounds().Size(), name)
	}
	for _, s := range []string{
		"", "data:image/png,abc", "data:image/png;base64", "data:;base64,", "http://127.0.0.1/a.png", "https://example.com/a.png", "file:///etc/passwd",
		"/etc/passwd", "etcpasswd", "../../" + pictures + "quadrants/rgb.png", filepath.Join(pictures, "quadrants/rgb.png"), "\x00\x01",
	} {
		_, err := Text(s, Limits{})
		assert.Error(t, err, s)
	}
}

func FuzzText(f *testing.F) {
	f.Add("data:image/png;base64,iVBORw0KGgo=")
	f.Add("iVBORw0KGgo")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := Text(s, Limits{Pixels: 1 << 16}); err == nil && m.Bounds().Dx()*m.Bounds().Dy() > 1<<16 {
			t.Error("larger than the limit")
		}
	})
}
