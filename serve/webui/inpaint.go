package webui

import (
	"context"
	"fmt"
	"image"
	"image/draw"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/upload"
	"github.com/onestep-go/onestep/torch/vision"
)

// A1111's defaults of inpainting, and its largest values.
const (
	defaultBlur = 4
	mostBlur    = 64
)

// repaint is what A1111 puts over generated images: the input image where the mask is black, with a soft edge. The part that is generated is the
// whole image, or the rectangle around the white of the mask, which is then put in its place.
type repaint struct {
	input *image.NRGBA
	mask  *image.Gray // of the input's size, blurred
	part  image.Rectangle
	whole bool // whether all of the image is generated
}

// inpaint reads A1111's fields for the mask, and replaces the input image and the mask by those of the part to be generated.
func (q *request) inpaint(ctx context.Context, mode int) error {
	f := q.form
	blur := [2]float64{defaultBlur, defaultBlur}
	for i, name := range []string{"mask_blur_x", "mask_blur_y"} {
		if v, ok := f.number(name, 0, mostBlur); ok {
			blur[i] = v
		}
	}
	if v, ok := f.number("mask_blur", 0, mostBlur); ok {
		blur = [2]float64{v, v}
	}
	padding, _ := f.integer("inpaint_full_res_padding", 0, engine.MaxSide)
	only := f.flag("inpaint_full_res", true)
	fill, _ := f.integer("inpainting_fill", 0, 3)
	if fill > 1 {
		q.note("inpainting_fill %d is not used: repainting starts from the colours around the mask (0)", fill)
	}
	if err := f.err(); err != nil {
		return err
	}
	if !only {
		q.fit(mode)
	}
	input := upload.Plain(q.Init)
	mask := blurred(upload.Grey(q.Mask, input.Bounds().Size()), blur[0], blur[1])
	q.repaint = &repaint{input, mask, input.Bounds(), true}
	q.extra = append(q.extra, infotext.Field{Name: "Mask blur", Value: plainNumber(blur[0])})
	if white := whitePart(mask); only && !white.Empty() {
		q.repaint.whole = false
		if size := input.Rect.Size(); size != q.given {
			q.note("the input image is reduced from %d×%d to %d×%d pixels", q.given.X, q.given.Y, size.X, size.Y)
		}
		q.repaint.part = inProportion(white.Inset(-padding).Intersect(mask.Bounds()), q.Width, q.Height, mask.Bounds())
		q.extra = append(q.extra, infotext.Field{Name: "Inpaint area", Value: "Only masked"}, infotext.Field{Name: "Masked area padding", Value: strconv.Itoa(padding)})
	}
	part := image.NewGray(image.Rectangle{Max: q.repaint.part.Size()})
	draw.Draw(part, part.Bounds(), mask, q.repaint.part.Min, draw.Src)
	for i, v := range part.Pix { // models know no shades
		part.Pix[i] = v >> 7 * 255
	}
	given := cut(input, q.repaint.part)
	if fill != 1 {
		var err error
		if given, err = filled(ctx, given, part); err != nil {
			return err
		}
	}
	q.Init, q.Mask = given, part
	return nil
}

// resizes reports whether a notice of the engine's is of the part's enlargement. Clients ask for that, and know nothing of an image of the part's
// size.
func (p *repaint) resizes(notice string) bool {
	if p == nil || p.whole {
		return false
	}
	size := fmt.Sprintf("is resized from %d×%d to ", p.part.Dx(), p.part.Dy())
	return strings.HasPrefix(notice, "the input image "+size) || strings.HasPrefix(notice, "the mask "+size)
}

// over returns the input image with a generated one where the mask is white: of the input's size if only a part was generated, and otherwise of
// the generated one's.
func (p *repaint) over(generated image.Image) image.Image {
	input, mask := p.input, p.mask
	out := upload.Plain(generated)
	switch size := out.Bounds().Size(); {
	case !p.whole:
		whole := image.NewNRGBA(input.Bounds())
		copy(whole.Pix, input.Pix)
		draw.Draw(whole, p.part, vision.Resize(out, p.part.Dx(), p.part.Dy(), vision.Lanczos), image.Point{}, draw.Src)
		out = whole
	case size != input.Bounds().Size():
		input, mask = vision.Resize(input, size.X, size.Y, vision.Lanczos), upload.Grey(mask, size)
	}
	upload.Blend(out, input, mask)
	return out
}

// cut returns a part of an image, at the origin.
func cut(m image.Image, part image.Rectangle) *image.NRGBA {
	out := image.NewNRGBA(image.Rectangle{Max: part.Size()})
	draw.Draw(out, out.Bounds(), m, part.Min, draw.Src)
	return out
}

// whitePart is the smallest rectangle with all pixels of a mask that are not black.
func whitePart(m *image.Gray) image.Rectangle {
	w, part := m.Rect.Dx(), image.Rectangle{}
	for y := range m.Rect.Dy() {
		row := m.Pix[y*m.Stride : y*m.Stride+w]
		for x, v := range row {
			if v != 0 {
				part = part.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return part
}

// inProportion widens a part to the proportions of w and h, squares if they are 0, as far as the whole allows.
func inProportion(part image.Rectangle, w, h int, whole image.Rectangle) image.Rectangle {
	if w == 0 || h == 0 {
		w, h = 1, 1
	}
	widen := func(from, to, want, most int) (int, int) {
		want = min(max(want, to-from), most)
		from = min(max(from-(want-(to-from))/2, 0), most-want)
		return from, from + want
	}
	part.Min.X, part.Max.X = widen(part.Min.X, part.Max.X, part.Dy()*w/h, whole.Dx())
	part.Min.Y, part.Max.Y = widen(part.Min.Y, part.Max.Y, part.Dx()*h/w, whole.Dy())
	return part
}
