package vision

import (
	"bytes"
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

// The pictures are from scripts/golden/torch/vision/images.py: red, green, blue and transparent quarters.
func TestDecodeEveryFormat(t *testing.T) {
	files, err := filepath.Glob("testdata/quadrants/*")
	require.NoError(t, err)
	require.Len(t, files, 17)
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			img, err := decoded(read(t, path))
			require.NoError(t, err)
			require.Equal(t, image.Rect(0, 0, 16, 16), img.Bounds())
			want := [][3]int{{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}}
			switch {
			case strings.HasPrefix(name, "grey"): // luminance of ITU-R 601, as Pillow rounds it
				want = [][3]int{{76, 76, 76}, {150, 150, 150}, {29, 29, 29}, {255, 255, 255}}
			case strings.HasPrefix(name, "bits"):
				want = [][3]int{{0, 0, 0}, {255, 255, 255}, {0, 0, 0}, {255, 255, 255}}
			}
			tolerance := 0.0 // lossless
			if strings.HasSuffix(name, "jpg") || strings.Contains(name, "lossy") {
				tolerance = 12 // of the formats' rounding, in the middle of a flat quarter
			}
			for i, at := range []image.Point{{3, 3}, {12, 3}, {3, 12}, {12, 12}} {
				c := img.RGBAAt(at.X, at.Y)
				for k, v := range []uint8{c.R, c.G, c.B} {
					assert.InDelta(t, want[i][k], int(v), tolerance, "quarter %d, channel %d", i, k)
				}
				assert.Equal(t, uint8(255), c.A)
			}
		})
	}
}

func TestFirstFrameMayBeSmallerThanItsScreen(t *testing.T) {
	var b bytes.Buffer
	frame := image.NewPaletted(image.Rect(2, 2, 4, 4), color.Palette{color.RGBA{255, 0, 0, 255}})
	require.NoError(t, gif.EncodeAll(&b, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 4, Height: 4}}))
	img, err := decoded(b.Bytes())
	require.NoError(t, err)
	require.Equal(t, image.Rect(0, 0, 4, 4), img.Bounds())
	assert.Equal(t, color.RGBA{255, 255, 255, 255}, img.RGBAAt(0, 0))
	assert.Equal(t, color.RGBA{255, 0, 0, 255}, img.RGBAAt(3, 2))
}

func TestOrientation(t *testing.T) {
	files, err := filepath.Glob("testdata/orient/*")
	require.NoError(t, err)
	require.Len(t, files, 8+7+7)
	for _, path := range files {
		o := int(filepath.Base(path)[0] - '0')
		data := read(t, path)
		h, err := ReadHeader(data)
		require.NoError(t, err)
		w, hh := h.Size()
		assert.Equal(t, []int{o, 32, 16}, []int{h.Orientation, w, hh})
		img, err := decoded(data)
		require.NoError(t, err)
		require.Equal(t, image.Rect(0, 0, 32, 16), img.Bounds())
		for at, want := range map[image.Point][3]int{{6, 3}: {255, 0, 0}, {25, 3}: {0, 255, 0}, {6, 12}: {0, 0, 255}, {25, 12}: {255, 255, 255}} {
			c := img.RGBAAt(at.X, at.Y)
			for k, v := range []uint8{c.R, c.G, c.B} {
				assert.InDelta(t, want[k], int(v), 12, "%s at %v", path, at)
			}
		}
	}
}

// Two decoders' inverse cosine transforms and colour conversions may round differently, by 2 each. Repeated chroma would
// differ by 60 and more, studio range by 20.
func TestColourEqualsPillow(t *testing.T) {
	for _, name := range []string{"420.jpg", "420_even.jpg", "422.jpg", "lossy.webp"} {
		got, err := decoded(read(t, "testdata/chroma/"+name))
		require.NoError(t, err)
		want, err := decoded(read(t, "testdata/chroma/"+name+".png"))
		require.NoError(t, err)
		most, mean := difference(got, want)
		t.Logf("%s: largest difference %d, mean %.3f", name, most, mean)
		assert.LessOrEqual(t, most, 4)
		assert.Less(t, mean, 0.7)
	}
}

// difference is the largest and the mean difference between the channels of two images of the same size.
func difference(a, b *image.RGBA) (most int, mean float64) {
	n := 3 * a.Bounds().Dx() * a.Bounds().Dy()
	p, q := make([]byte, n), make([]byte, n)
	for i := range n / 3 {
		copy(p[3*i:], a.Pix[4*i:][:3])
		copy(q[3*i:], b.Pix[4*i:][:3])
	}
	sum := 0
	for i := range p {
		d := max(int(p[i])-int(q[i]), int(q[i])-int(p[i]))
		most, sum = max(most, d), sum+d
	}
	return most, float64(sum) / float64(n)
}

// pngOf is a PNG that declares a size and holds next to nothing.
func pngOf(w, h int) []byte {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
	b = binary.BigEndian.AppendUint32(b, uint32(w))
	b = binary.BigEndian.AppendUint32(b, uint32(h))
	b = append(b, 16, 6, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
}

// bombs are small files that declare large images.
func bombs() map[string][]byte {
	gif := []byte("GIF89a\xff\xff\xff\xff\x80\x00\x00\xff\x00\x00\x00\xff\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x03\x04\x80\x02\x00;")
	jpeg := append([]byte("\xff\xd8\xff\xc0\x00\x11\x08"), 0xff, 0xff, 0xff, 0xff, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xd9)
	webp := []byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\xff\xff\xff\x0f\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	bmp := append([]byte("BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00"), 0, 64, 0, 0, 0, 64, 0, 0, 1, 0, 24, 0)
	return map[string][]byte{
		"png": pngOf(1<<31-1, 1<<31-1), "png below the limit": pngOf(8192, 8192), "png of 9 million": pngOf(3000, 3000),
		"gif": gif, "jpeg": jpeg, "webp": webp, "bmp": append(bmp, make([]byte, 24)...),
	}
}

func TestImagesThatDeclareTooMuch(t *testing.T) {
	for name, data := range bombs() {
		t.Run(name, func(t *testing.T) {
			n := allocated(func() {
				_, err := decoded(data)
				require.Error(t, err)
				t.Log(err)
				if !strings.HasSuffix(name, "g") { // PNG's own limit comes first
					assert.ErrorContains(t, err, "it declares")
				}
			})
			assert.Less(t, n, uint64(1<<20), "bytes allocated")
		})
	}
	t.Run("plain pictures are not meant", func(t *testing.T) {
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, 3000, 2000))))
		_, err := decoded(b.Bytes())
		require.NoError(t, err)
	})
}

// Of an animated WebP the first frame is read, as Pillow does.
func TestAnimatedWebP(t *testing.T) {
	for _, name := range []string{"lossy", "lossless", "alpha"} {
		got, err := decoded(read(t, "testdata/animated/"+name+".webp"))
		require.NoError(t, err)
		want, err := decoded(read(t, "testdata/animated/"+name+".png"))
		require.NoError(t, err)
		most, mean := difference(got, want)
		t.Logf("%s: largest difference %d, mean %.3f", name, most, mean)
		assert.LessOrEqual(t, most, 4, name) // see TestColourEqualsPillow
	}
}

// A turned image keeps its alpha.
func TestUprightKeepsAlpha(t *testing.T) {
	m := image.NewNRGBA(image.Rect(0, 0, 2, 1))
	m.SetNRGBA(0, 0, color.NRGBA{200, 100, 50, 10})
	require.Equal(t, color.NRGBA{200, 100, 50, 10}, upright(m, 6).At(0, 0))
	require.Equal(t, image.Pt(1, 2), upright(m, 6).Bounds().Size())
}

// progressive is the header of a progressive JPEG of one size with scans that hold nothing.
func progressive(side uint16, scans int, sampling byte) []byte {
	b := []byte("\xff\xd8\xff\xc2\x00\x11\x08")
	b = binary.BigEndian.AppendUint16(b, side)
	b = binary.BigEndian.AppendUint16(b, side)
	b = append(b, 3, 1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0)
	for range scans {
		b = append(b, "\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00\x00"...)
	}
	return append(b, 0xff, 0xd9)
}

func TestJPEGsThatTakeTooMuch(t *testing.T) {
	require.ErrorContains(t, checkJPEG(progressive(8192, 1, 0x11)), "coefficients")
	require.ErrorContains(t, checkJPEG(progressive(2048, 50_000, 0x22)), "scans")
	require.NoError(t, checkJPEG(progressive(5000, 25, 0x11)), "what cameras and optimizers write")
	require.NoError(t, checkJPEG(progressive(7000, 10, 0x22)))
	_, err := Decode(append(progressive(2048, 50_000, 0x22), make([]byte, 1<<20)...))
	require.ErrorContains(t, err, "scans")
}

func decoded(data []byte) (*image.RGBA, error) {
	m, err := Decode(data)
	if err != nil {
		return nil, err
	}
	return OnWhite(m), nil
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
