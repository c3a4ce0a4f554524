package upload

import (
	"context"
	"errors"
	"image"
	"image/draw"
	"math"
	"runtime"
	"sync"

	"github.com/onestep-go/onestep/torch/vision"
)

// Limits of what a [Decoder] does at once.
const (
	atOnce     = 4         // pieces of work; fewer with fewer processors
	mostWait   = 64        // images of a client that wait to be decoded
	mostMemory = 512 << 20 // bytes that images keep
)

// Decoder decodes the images of requests, and runs other work on them: a few at once, in which clients take turns, and as much as the memory for images
// allows. Images are reduced to the pixels that are of use, since a request keeps them while it waits.
type Decoder struct {
	limits Limits
	keep   int
	turns  turns

	mu   sync.Mutex
	left int // bytes
}

// NewDecoder returns a decoder of images within limits that keeps a number of pixels of each.
func NewDecoder(l Limits, keep int) *Decoder {
	return &Decoder{limits: l, keep: keep, turns: turns{free: min(runtime.GOMAXPROCS(0), atOnce)}, left: mostMemory}
}

// Work is the work on the images of one request. Close it when the images are not needed any more.
type Work struct {
	d      *Decoder
	ctx    context.Context
	client string
	held   int // bytes
}

// For returns the work for a request of a client. It ends when ctx is done.
func (d *Decoder) For(ctx context.Context, client string) *Work {
	return &Work{d: d, ctx: ctx, client: client}
}

// Close gives the memory of the images back.
func (w *Work) Close() {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	w.d.left += w.held
	w.held = 0
}

// Hold takes memory for images of some pixels until Close; [ErrBusy]: there is not enough. A request may have half of what is left, so that something
// is left for others.
func (w *Work) Hold(pixels int) error {
	const each = 4 // bytes of a pixel
	n := each * pixels
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	if n > w.d.left/2 {
		return ErrBusy
	}
	w.d.left -= n
	w.held += n
	return nil
}

// Do runs work on images in its turn. It returns the error of f, or of the context if that is done before.
func (w *Work) Do(f func() error) error {
	if err := w.d.turns.enter(w.ctx, w.client, 0); err != nil {
		return err
	}
	defer w.d.turns.leave()
	return f()
}

// Decode is [Decode]; then prepare, unless it is nil, makes another image of it, of which no more than the pixels to keep are returned. size is
// that of the image in the file. The error is [ErrBusy] if too many images are worked on, and that of the context if that is done.
func (w *Work) Decode(data []byte, prepare func(image.Image) image.Image) (m image.Image, size image.Point, err error) {
	return w.decode(func() (image.Image, error) { return Decode(data, w.d.limits) }, prepare)
}

// Text is [Work.Decode] of an image in base64, as in [Text].
func (w *Work) Text(s string, prepare func(image.Image) image.Image) (m image.Image, size image.Point, err error) {
	return w.decode(func() (image.Image, error) { return Text(s, w.d.limits) }, prepare)
}

func (w *Work) decode(read func() (image.Image, error), prepare func(image.Image) image.Image) (m image.Image, size image.Point, err error) {
	if err := w.d.turns.enter(w.ctx, w.client, mostWait); err != nil {
		return nil, size, err
	}
	defer w.d.turns.leave()
	m, err = read()
	if err == nil {
		err = w.ctx.Err()
	}
	if err != nil {
		return nil, size, err
	}
	m, size = w.d.reduced(m, prepare)
	b := m.Bounds()
	return m, size, w.Hold(b.Dx() * b.Dy())
}

// Interrupted reports whether an error is no fault of the image: there are too many, or the client is gone.
func Interrupted(err error) bool {
	return errors.Is(err, ErrBusy) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (d *Decoder) reduced(m image.Image, prepare func(image.Image) image.Image) (image.Image, image.Point) {
	size := m.Bounds().Size()
	if prepare != nil {
		m = prepare(m)
	}
	if size.X <= d.keep/size.Y {
		return m, size
	}
	if !opaque(m) {
		m = vision.OnWhite(m) // resizing drops alpha
	}
	scale := math.Sqrt(float64(d.keep) / float64(size.X) / float64(size.Y))
	return vision.Resize(m, max(1, int(float64(size.X)*scale)), max(1, int(float64(size.Y)*scale)), vision.Lanczos), size
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
