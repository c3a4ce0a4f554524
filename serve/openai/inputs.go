package openai

import (
	"encoding/json"
	"errors"
	"image"
	"image/draw"
	"io"
	"math"
	"net/http"

	"github.com/onestep-go/onestep/serve/internal/upload"
	"github.com/onestep-go/onestep/torch/vision"
)

// uploaded reads and decodes a part of a form.
func (h *handler) uploaded(in *input, param string, part io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(part, int64(h.MaxImage)+1))
	switch {
	case err != nil && limited(err):
		return err
	case err != nil:
		return malformed("a form", err)
	}
	return h.decode(in, param, data)
}

// decode decodes an image or a mask, as many at once as there are processors, and reduces it to the pixels that are of use, since a request keeps
// it while it waits.
func (h *handler) decode(in *input, param string, data []byte) error {
	h.decoding <- struct{}{}
	defer func() { <-h.decoding }()
	m, err := upload.Decode(data, upload.Limits{Bytes: h.MaxImage})
	if err != nil {
		return badImage(param, err)
	}
	if param == "mask" {
		in.maskSize = m.Bounds().Size()
		m, in.opaque = repainted(m)
		in.mask = reduced(m, h.MaxPixels)
		return nil
	}
	in.imageSize = m.Bounds().Size()
	in.image = reduced(vision.OnWhite(m), h.MaxPixels)
	return nil
}

func badImage(param string, err error) error {
	if errors.Is(err, upload.ErrTooLarge) {
		return tooLarge(param, param+": "+err.Error())
	}
	return &Error{Status: http.StatusBadRequest, Param: param, Code: "invalid_image", Msg: param + ": " + err.Error()}
}

// reduced returns an image of at most a number of pixels.
func reduced(m image.Image, most int) image.Image {
	size := m.Bounds().Size()
	if size.X <= most/size.Y {
		return m
	}
	scale := math.Sqrt(float64(most) / float64(size.X) / float64(size.Y))
	return vision.Resize(m, max(1, int(float64(size.X)*scale)), max(1, int(float64(size.Y)*scale)), vision.Lanczos)
}

// embedded decodes the images of a request in JSON, in base64: "image" or "images", a string, an object with one, or an array of them.
func (h *handler) embedded(in *input) error {
	if raw, ok := in.get("image", "images", "file"); ok {
		all := elements(raw)
		in.images += len(all)
		if len(all) > 0 && in.image == nil {
			if err := h.base64(in, "image", all[0]); err != nil {
				return err
			}
		}
	}
	if raw, ok := in.get("mask"); ok && in.mask == nil {
		return h.base64(in, "mask", raw)
	}
	return nil
}

func (h *handler) base64(in *input, param string, raw json.RawMessage) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		var object struct {
			ImageURL json.RawMessage `json:"image_url"`
			URL      string          `json:"url"`
			B64JSON  string          `json:"b64_json"`
		}
		if err := json.Unmarshal(raw, &object); err != nil {
			return wrongType(param, "an image in base64", raw)
		}
		text = or(object.B64JSON, object.URL)
		if object.ImageURL != nil && json.Unmarshal(object.ImageURL, &text) != nil {
			return wrongType(param, "an image in base64", raw)
		}
	}
	data, err := upload.Base64(text, upload.Limits{Bytes: h.MaxImage})
	if err != nil {
		return badImage(param, err)
	}
	return h.decode(in, param, data)
}

// repainted returns a mask in which white is repainted, of one in which what is transparent is. A mask that is opaque is returned as it is:
// white is what other programs repaint.
func repainted(m image.Image) (mask image.Image, opaque bool) {
	if o, ok := m.(interface{ Opaque() bool }); ok && o.Opaque() {
		return m, true
	}
	b := m.Bounds()
	from := image.NewNRGBA(image.Rectangle{Max: b.Size()})
	draw.Draw(from, from.Rect, m, b.Min, draw.Src)
	out := image.NewGray(from.Rect)
	for i := range out.Pix {
		out.Pix[i] = 255 - from.Pix[4*i+3]
	}
	return out, false
}
