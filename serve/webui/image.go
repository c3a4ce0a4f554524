package webui

import (
	"encoding/json"
	"image"
	"image/draw"
	"net/http"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// defaultStrength is A1111's denoising_strength of img2img.
const defaultStrength = 0.75

func (s *server) imageToImage(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	q, err := s.common(r, f)
	if err != nil {
		return err
	}
	if err := s.images(q); err != nil {
		return err
	}
	return s.generate(w, r, q, "img2img")
}

func (s *server) limits() upload.Limits {
	return upload.Limits{Bytes: int(s.o.MaxBody), Pixels: s.o.MaxPixels}
}

// images reads the input image, the mask and what is to be done with them.
func (s *server) images(q *request) error {
	f := q.form
	var init []json.RawMessage
	if f.has("init_images") && json.Unmarshal(f.fields["init_images"], &init) != nil {
		f.wrong("init_images", "want a list of images in base64", "list_type")
		return f.err()
	}
	if len(init) == 0 {
		return refuse(http.StatusNotFound, "Init image not found: want an image in base64 in init_images")
	}
	if len(init) > 1 {
		q.note("init_images has %s: only the first is used", plural.N(len(init), "image"))
	}
	q.Strength = defaultStrength
	if v, ok := f.number("denoising_strength", 0, 1); ok {
		if q.Strength = v; v == 0 {
			f.wrong("denoising_strength", "want more than 0, which changes nothing, to 1", "out_of_range")
		}
	}
	mode, _ := f.integer("resize_mode", 0, 3)
	invert := f.flag("inpainting_mask_invert", false)
	if err := f.err(); err != nil {
		return err
	}
	first := form{fields: map[string]json.RawMessage{"0": init[0]}, in: append(f.in, "init_images"), bad: f.bad}
	q.Init = s.image(first, "0")
	if text := f.text("mask"); text != "" {
		q.Mask = s.image(f, "mask")
	}
	if err := f.err(); err != nil {
		return err
	}
	if q.Mask != nil {
		q.Mask = whiteMask(q.Mask, invert)
		q.inpainting()
	}
	q.fit(mode)
	return nil
}

// image decodes an image of a field.
func (s *server) image(f form, name string) image.Image {
	text := f.text(name)
	if f.err() != nil {
		return nil
	}
	m, err := upload.Text(text, s.limits())
	if err != nil {
		f.wrong(name, err.Error(), "value_error")
	}
	return m
}

// inpainting notes how the mask is used differently. A1111's defaults are no matter, since clients do not ask for them.
func (q *request) inpainting() {
	f := q.form
	for _, name := range []string{"mask_blur", "mask_blur_x", "mask_blur_y"} {
		if n, ok := f.number(name, 0, mostSide); ok && n > 0 {
			q.note("%s is not used: the mask's edge is sharp", name)
		}
	}
	if fill, ok := f.integer("inpainting_fill", 0, 3); ok && fill != 1 {
		q.note("inpainting_fill %d is not used: repainting starts from the input image (1)", fill)
	}
	if f.flag("inpaint_full_res", false) {
		q.note("inpaint_full_res is not used: the whole image is generated, not the masked part enlarged")
	}
}

// fit cuts the input image and the mask to the proportions asked for, which the engine then scales.
func (q *request) fit(mode int) {
	switch {
	case mode == 2 || mode == 3:
		q.note("resize_mode %d is not used: the input image is scaled", mode)
		return
	case mode == 0 || q.Width == 0 || q.Height == 0:
		return
	}
	if q.Mask != nil {
		q.Mask = centre(q.Mask, q.Width, q.Height)
	}
	q.Init = centre(q.Init, q.Width, q.Height)
}

// centre cuts the largest part with the proportions of w and h from the middle of an image.
func centre(m image.Image, w, h int) image.Image {
	b := m.Bounds()
	cut := image.Rect(0, 0, b.Dx(), max(b.Dx()*h/w, 1))
	if cut.Dy() > b.Dy() {
		cut = image.Rect(0, 0, max(b.Dy()*w/h, 1), b.Dy())
	}
	cut = cut.Add(b.Min).Add(image.Pt((b.Dx()-cut.Dx())/2, (b.Dy()-cut.Dy())/2))
	out := image.NewNRGBA(image.Rect(0, 0, cut.Dx(), cut.Dy()))
	draw.Draw(out, out.Bounds(), m, cut.Min, draw.Src)
	return out
}

// whiteMask returns a mask as shades of grey, white where it is repainted. Of an image with transparency, A1111's mask is the opaque part.
func whiteMask(m image.Image, invert bool) image.Image {
	b := m.Bounds()
	opaque, _ := m.(interface{ Opaque() bool })
	byAlpha := opaque != nil && !opaque.Opaque()
	out := image.NewGray(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(out, out.Bounds(), m, b.Min, draw.Src)
	for i := range out.Pix {
		if byAlpha {
			_, _, _, alpha := m.At(b.Min.X+i%b.Dx(), b.Min.Y+i/b.Dx()).RGBA()
			out.Pix[i] = uint8(alpha >> 8)
		}
		if invert {
			out.Pix[i] = 255 - out.Pix[i]
		}
	}
	return out
}
