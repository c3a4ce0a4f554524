package vision

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// noise are random images of all types of package image, away from the origin; not all are opaque.
func noise(t *testing.T) map[string]image.Image {
	r := rand.New(rand.NewPCG(1, 2))
	area := image.Rect(3, 5, 20, 16)
	out := map[string]image.Image{}
	for name, m := range map[string]draw.Image{
		"RGBA": image.NewRGBA(area), "NRGBA": image.NewNRGBA(area), "RGBA64": image.NewRGBA64(area), "NRGBA64": image.NewNRGBA64(area),
		"Gray": image.NewGray(area), "Gray16": image.NewGray16(area), "CMYK": image.NewCMYK(area),
		"Paletted": image.NewPaletted(area, color.Palette{color.White, color.RGBA{200, 30, 4, 255}, color.Black, color.RGBA{7, 90, 3, 255}}),
	} {
		for y := area.Min.Y; y < area.Max.Y; y++ {
			for x := area.Min.X; x < area.Max.X; x++ {
				m.Set(x, y, color.NRGBA64{uint16(r.Uint32()), uint16(r.Uint32()), uint16(r.Uint32()), 65535})
			}
		}
		out[name] = m
	}
	cmyk := out["CMYK"].(*image.CMYK)
	for i := range cmyk.Pix {
		cmyk.Pix[i] = byte(r.Uint32())
	}
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, out["RGBA"], nil))
	m, err := jpeg.Decode(&b)
	require.NoError(t, err)
	out["YCbCr"] = m
	return out
}

// Levels are those that package color converts to, one pixel at a time; the tensor's values are exact.
func TestFromImages(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name, m := range noise(t) {
			b := m.Bounds()
			n := b.Dx() * b.Dy()
			signed, err := FromImages(s, 3, m, m)
			require.NoError(t, err)
			require.Equal(t, []int{2, 3, b.Dy(), b.Dx()}, signed.Shape())
			unit, err := FromImagesUnit(s, 3, m)
			require.NoError(t, err)
			grey, err := FromImagesUnit(s, 1, m)
			require.NoError(t, err)
			require.Equal(t, []int{1, 1, b.Dy(), b.Dx()}, grey.Shape())
			two, one, lum := torch.ToSlice[float32](signed), torch.ToSlice[float32](unit), torch.ToSlice[float32](grey)
			for y := range b.Dy() {
				for x := range b.Dx() {
					c := color.NRGBAModel.Convert(m.At(b.Min.X+x, b.Min.Y+y)).(color.NRGBA)
					i := y*b.Dx() + x
					for k, v := range []uint8{c.R, c.G, c.B} {
						require.Equal(t, float32(v)/255, one[k*n+i], name)
						require.Equal(t, float32(v)/255*2-1, two[k*n+i], name)
						require.Equal(t, two[k*n+i], two[(3+k)*n+i], name)
					}
					require.Equal(t, float32((uint32(c.R)*19595+uint32(c.G)*38470+uint32(c.B)*7471+1<<15)>>16)/255, lum[i], name)
				}
			}
			back, err := ToImages(signed)
			require.NoError(t, err)
			again, err := FromImages(s, 3, back...)
			require.NoError(t, err)
			require.True(t, torch.ToSlice[bool](again.Eq(s, signed).All(s))[0], "there and back: %s", name)
		}
		clear := image.NewNRGBA(image.Rect(0, 0, 2, 1))
		clear.SetNRGBA(1, 0, color.NRGBA{0, 0, 0, 255})
		x, err := FromImages(s, 1, clear)
		require.NoError(t, err)
		require.Equal(t, []float32{1, -1}, torch.ToSlice[float32](x), "what is transparent is white")
		return nil
	}))
}

func TestFromImagesRefuses(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	small, large := image.NewGray(image.Rect(0, 0, 2, 2)), image.NewGray(image.Rect(0, 0, 3, 2))
	_, err := FromImages(s, 3, small, large)
	require.ErrorContains(t, err, "image 2 has 3×2 pixels and the first 2×2")
	_, err = FromImages(s, 3)
	require.Error(t, err)
	_, err = FromImages(s, 3, small, nil)
	require.ErrorContains(t, err, "image 2")
	_, err = FromImages(s, 4, small)
	require.ErrorContains(t, err, "got 4")
	s.Close()
	_, err = FromImages(s, 1, small)
	require.ErrorIs(t, err, torch.ErrFreed)
	require.Panics(t, func() { Planes(make([]byte, 5), small) })
	require.Panics(t, func() { FromPlanes(make([]byte, 4), 2, 1, 2) })
}

func TestToImages(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{-1, 1, 0, 9, -9, 0.5, -0.5, 1, 0, 0, 0, 0}, 1, 3, 2, 2)
		got, err := ToImages(x)
		require.NoError(t, err)
		require.Equal(t, color.NRGBA{0, 0, 128, 255}, got[0].At(0, 0))
		require.Equal(t, color.NRGBA{255, 191, 128, 255}, got[0].At(1, 0))
		require.Equal(t, color.NRGBA{255, 255, 128, 255}, got[0].At(1, 1), "values outside are clamped")

		grey, err := ToImages(torch.Zeros(s, torch.Float16, 2, 1, 3, 4))
		require.NoError(t, err)
		require.Len(t, grey, 2)
		require.Equal(t, image.Rect(0, 0, 4, 3), grey[1].Bounds())
		require.IsType(t, &image.Gray{}, grey[0])

		_, err = ToImages(torch.Full(s, math.NaN(), torch.Float32, 1, 1, 2, 2))
		require.ErrorContains(t, err, "4 of 4 values are NaN")
		require.ErrorIs(t, err, ErrNaN)
		for _, bad := range []*torch.Tensor{torch.Zeros(s, torch.Float32, 1, 2, 2, 2), torch.Zeros(s, torch.Float32, 3, 2, 2), torch.Zeros(s, torch.Uint8, 1, 3, 2, 2)} {
			_, err = ToImages(bad)
			require.ErrorContains(t, err, "[B, 1 or 3, H, W]")
		}
		x.Free()
		_, err = ToImages(x)
		require.ErrorIs(t, err, torch.ErrFreed)
		return nil
	}))
}

func TestPlanes(t *testing.T) {
	for v := range 256 {
		var got [1]byte
		Planes(got[:], FromPlanes([]byte{byte(v)}, 1, 1, 1))
		require.Equal(t, byte(v), got[0], "grey stays what it is")
	}
	src := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18} // 3×2×3
	dst := make([]byte, len(src))
	Planes(dst, FromPlanes(src, 3, 2, 3))
	require.Equal(t, src, dst)
}
