package webui

import (
	"encoding/json"
	"image"
	"image/draw"
	"net/http"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/serve/internal/upload"
	"github.com/onestep-go/onestep/torch/vision"
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
	q.Init, q.given = s.image(first, "0", nil)
	if text := f.text("mask"); text != "" {
		q.Mask, _ = s.image(f, "mask", func(m image.Image) image.Image { return whiteMask(m, invert) })
	}
	if err := f.err(); err != nil {
		return err
	}
	if q.Mask == nil {
		q.fit(mode)
		return nil
	}
	q.inpaint(mode)
	return f.err()
}

// image decodes an image of a field, as prepare makes it. It returns also the size that it has in its file.
func (s *server) image(f form, name string, prepare func(image.Image) image.Image) (m image.Image, size image.Point) {
	text := f.text(name)
	if f.err() != nil {
		return nil, size
	}
	m, size, err := s.decoder.Text(text, prepare)
	if err != nil {
		f.wrong(name, err.Error(), "value_error")
	}
	return m, size
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
		q.Mask = cut(q.Mask, vision.Middle(q.Mask.Bounds(), q.Width, q.Height))
	}
	q.Init = cut(q.Init, vision.Middle(q.Init.Bounds(), q.Width, q.Height))
}

// whiteMask returns a mask as shades of grey, white where it is repainted. Of an image with transparency, A1111's mask is the opaque part.
func whiteMask(m image.Image, invert bool) image.Image {
	out := upload.Alpha(m)
	if out == nil {
		b := m.Bounds()
		out = image.NewGray(image.Rectangle{Max: b.Size()})
		draw.Draw(out, out.Bounds(), m, b.Min, draw.Src)
	}
	if invert {
		for i, v := range out.Pix {
			out.Pix[i] = 255 - v
		}
	}
	return out
}
