package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif"  // decoders of folders and shards
	_ "image/jpeg" // likewise
	_ "image/png"  // likewise
	"io"

	_ "golang.org/x/image/bmp" // likewise
	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // likewise
)

// Limits of what is decoded: a small file may declare a huge image.
const (
	maxImageBytes  = 64 << 20
	maxImagePixels = 64 << 20
)

// decode reads an image of any format, puts it on white where it is transparent, and scales it so that the shorter side
// fits, keeping the middle. It returns channel planes.
func decode(data []byte, c, h, w int) ([]byte, error) {
	img, err := decodeImage(data)
	if err != nil {
		return nil, err
	}
	return planes(fit(img, h, w), image.Rect(0, 0, w, h), c), nil
}

func decodeImage(data []byte) (image.Image, error) {
	cfg, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if cfg.Width < 1 || cfg.Height < 1 || cfg.Width > maxImagePixels/cfg.Height {
		return nil, fmt.Errorf("%d×%d pixels; at most %d million are read", cfg.Width, cfg.Height, maxImagePixels>>20)
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	return img, err
}

// fit composites on white and resamples to h×w pixels, cropping the middle of images of another shape. The kernel widens
// when it shrinks, so nothing aliases.
func fit(img image.Image, h, w int) *image.NRGBA {
	b := img.Bounds()
	crop := b
	if b.Dx()*h > b.Dy()*w {
		keep := max(1, b.Dy()*w/h)
		crop.Min.X += (b.Dx() - keep) / 2
		crop.Max.X = crop.Min.X + keep
	} else {
		keep := max(1, b.Dx()*h/w)
		crop.Min.Y += (b.Dy() - keep) / 2
		crop.Max.Y = crop.Min.Y + keep
	}
	flat := image.NewNRGBA(image.Rect(0, 0, crop.Dx(), crop.Dy()))
	draw.Draw(flat, flat.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(flat, flat.Bounds(), img, crop.Min, draw.Over)
	if crop.Dx() == w && crop.Dy() == h {
		return flat
	}
	out := image.NewNRGBA(image.Rect(0, 0, w, h))
	draw.CatmullRom.Scale(out, out.Bounds(), flat, flat.Bounds(), draw.Src, nil)
	return out
}

// planes returns a part of an image channel by channel: 3 planes of colour, or 1 of luminance.
func planes(img image.Image, r image.Rectangle, c int) []byte {
	n := r.Dx() * r.Dy()
	out := make([]byte, c*n)
	for i := range n {
		at := img.At(r.Min.X+i%r.Dx(), r.Min.Y+i/r.Dx())
		if c == 1 {
			out[i] = color.GrayModel.Convert(at).(color.Gray).Y
			continue
		}
		red, green, blue, _ := at.RGBA()
		out[i], out[n+i], out[2*n+i] = byte(red>>8), byte(green>>8), byte(blue>>8)
	}
	return out
}

// reshaped brings a set with pixels of its own into another resolution or number of channels.
type reshaped struct {
	Dataset
	c, h, w int
}

func reshape(d Dataset, o Options) (Dataset, error) {
	c, h, w := d.Shape()
	r := &reshaped{d, c, h, w}
	if o.Resolution != 0 {
		r.h, r.w = o.Resolution, o.Resolution
	}
	if o.Channels != 0 {
		r.c = o.Channels
	}
	if r.c == c && r.h == h && r.w == w {
		return d, nil
	}
	return r, nil
}

func (r *reshaped) Shape() (int, int, int) { return r.c, r.h, r.w }

func (r *reshaped) Read(i int, dst []byte) (int, error) {
	c, h, w := r.Dataset.Shape()
	raw := make([]byte, c*h*w)
	label, err := r.Dataset.Read(i, raw)
	if err != nil {
		return label, err
	}
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for j := range h * w {
		px := img.Pix[4*j : 4*j+4]
		px[3] = 255
		for k := range 3 {
			px[k] = raw[min(k, c-1)*h*w+j]
		}
	}
	copy(dst, planes(fit(img, r.h, r.w), image.Rect(0, 0, r.w, r.h), r.c))
	return label, nil
}

// readLimited reads all of r, but not more than limit bytes.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errors.New("it is larger than " + fmt.Sprint(limit>>20) + " MiB")
	}
	return b, err
}
