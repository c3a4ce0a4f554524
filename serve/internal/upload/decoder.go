package upload

import (
	"image"
	"image/draw"
	"math"
	"runtime"

	"github.com/onestep-go/onestep/torch/vision"
)

// Decoder decodes the images of requests, as many at once as there are processors, and reduces them to the pixels that are of use, since a
// request keeps them while it waits.
type Decoder struct {
	limits Limits
	keep   int
	slots  chan struct{} // holds one for each image that is being decoded
}

// NewDecoder returns a decoder of images within limits that keeps a number of pixels of each.
func NewDecoder(l Limits, keep int) *Decoder {
	return &Decoder{l, keep, make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// Decode is [Decode]; then prepare, unless it is nil, makes another image of it, of which no more than the pixels to keep are returned. size is
// that of the image in the file.
func (d *Decoder) Decode(data []byte, prepare func(image.Image) image.Image) (m image.Image, size image.Point, err error) {
	d.slots <- struct{}{}
	defer func() { <-d.slots }()
	m, err = Decode(data, d.limits)
	return d.reduced(m, err, prepare)
}

// Text is [Decoder.Decode] of an image in base64, as in [Text].
func (d *Decoder) Text(s string, prepare func(image.Image) image.Image) (m image.Image, size image.Point, err error) {
	d.slots <- struct{}{}
	defer func() { <-d.slots }()
	m, err = Text(s, d.limits)
	return d.reduced(m, err, prepare)
}

func (d *Decoder) reduced(m image.Image, err error, prepare func(image.Image) image.Image) (image.Image, image.Point, error) {
	if err != nil {
		return nil, image.Point{}, err
	}
	size := m.Bounds().Size()
	if prepare != nil {
		m = prepare(m)
	}
	if size.X <= d.keep/size.Y {
		return m, size, nil
	}
	if !opaque(m) {
		m = vision.OnWhite(m) // resizing drops alpha
	}
	scale := math.Sqrt(float64(d.keep) / float64(size.X) / float64(size.Y))
	return vision.Resize(m, max(1, int(float64(size.X)*scale)), max(1, int(float64(size.Y)*scale)), vision.Lanczos), size, nil
}

// Alpha returns the opacity of an image as shades of grey, at the origin; nil if the image is opaque.
func Alpha(m image.Image) *image.Gray {
	if opaque(m) {
		return nil
	}
	b := m.Bounds()
	from := image.NewNRGBA(image.Rectangle{Max: b.Size()})
	draw.Draw(from, from.Rect, m, b.Min, draw.Src)
	out := image.NewGray(from.Rect)
	for i := range out.Pix {
		out.Pix[i] = from.Pix[4*i+3]
	}
	return out
}

func opaque(m image.Image) bool {
	o, ok := m.(interface{ Opaque() bool })
	return ok && o.Opaque()
}
