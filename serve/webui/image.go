package webui

import (
	"context"
	"encoding/json"
	"image"
	"image/draw"
	"net/http"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/serve/engine"
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
	q.work = s.decoder.For(r.Context(), q.Client)
	defer q.work.Close()
	if err := q.images(r.Context()); err != nil {
		return err
	}
	return s.generate(w, r, q, "img2img")
}

// images reads the input image, the mask and what is to be done with them.
func (q *request) images(ctx context.Context) error {
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
		q.Strength = max(v, engine.LeastStrength)
	}
	mode, _ := f.integer("resize_mode", 0, 3)
	invert := f.flag("inpainting_mask_invert", false)
	if err := f.err(); err != nil {
		return err
	}
	first := form{fields: map[string]json.RawMessage{"0": init[0]}, in: append(f.in, "init_images"), bad: f.bad}
	var err error
	if q.Init, q.given, err = q.image(first, "0", nil); err != nil {
		return err
	}
	if text := f.text("mask"); text != "" {
		if q.Mask, _, err = q.image(f, "mask", func(m image.Image) image.Image { return whiteMask(m, invert) }); err != nil {
			return err
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	b := q.Init.Bounds()
	if err := q.work.Hold(copies * b.Dx() * b.Dy()); err != nil {
		return err
	}
	return q.work.Do(func() error {
		if q.Mask == nil {
			q.fit(mode)
			return nil
		}
		return q.inpaint(ctx, mode)
	})
}

// copies is about how many copies of an input image inpainting keeps, as images of four bytes a pixel: the image, its part, and the masks.
const copies = 3

// image decodes an image of a field, as prepare makes it. It returns also the size that it has in its file. An error is none of the field.
func (q *request) image(f form, name string, prepare func(image.Image) image.Image) (m image.Image, size image.Point, err error) {
	text := f.text(name)
	if f.err() != nil {
		return nil, size, nil
	}
	if m, size, err = q.work.Text(text, prepare); err != nil && !upload.Interrupted(err) {
		f.wrong(name, err.Error(), "value_error")
		err = nil
	}
	return m, size, err
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
