package openai

import (
	"cmp"
	"encoding/json"
	"errors"
	"image"
	"io"
	"net/http"
	"slices"

	"github.com/onestep-go/onestep/serve/engine"
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

// decode decodes an image or a mask.
func (h *handler) decode(in *input, param string, data []byte) (err error) {
	if param == "mask" {
		in.mask, in.maskSize, err = in.work.Decode(data, in.repainted)
	} else {
		in.image, in.imageSize, err = in.work.Decode(data, func(m image.Image) image.Image { return vision.OnWhite(m) })
	}
	if err != nil {
		return badImage(param, err)
	}
	return nil
}

func badImage(param string, err error) error {
	if upload.Interrupted(err) {
		return err
	}
	if errors.Is(err, upload.ErrTooLarge) {
		return tooLarge(param, param+": "+err.Error())
	}
	return &Error{Status: http.StatusBadRequest, Param: param, Code: "invalid_image", Msg: param + ": " + err.Error()}
}

// embedded decodes the images of a request in JSON, in base64: "image" or "images", a string, an object with one, or an array of them.
func (h *handler) embedded(in *input) error {
	if raw, ok := in.get("image", "images", "file"); ok {
		all, err := elements("image", raw)
		if err != nil {
			return err
		}
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
		text = cmp.Or(object.B64JSON, object.URL)
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
func (in *input) repainted(m image.Image) image.Image {
	alpha := upload.Alpha(m)
	if in.opaque = alpha == nil; in.opaque {
		return m
	}
	for i, v := range alpha.Pix {
		alpha.Pix[i] = 255 - v
	}
	return alpha
}

// keep puts the input image over what is not masked of a generated one. Latent diffusion models change it a little everywhere, since their autoencoder loses
// details, the more the more often an image is edited; models in pixel space keep it themselves.
func (h *handler) keep(in *input, p *params, is engine.Resolved, img *engine.Image) error {
	latent := func(m engine.Info) bool { return m.Name == is.Model && m.Prompts }
	if p.request.Mask == nil || !slices.ContainsFunc(h.engine.Models(), latent) {
		return nil
	}
	return in.work.Do(func() error {
		if in.kept == nil {
			size, input := img.Image.Bounds().Size(), p.request.Init
			if input.Bounds().Size() != size {
				input = vision.Resize(input, size.X, size.Y, vision.Lanczos)
			}
			in.kept, in.edge = upload.Plain(input), upload.Grey(p.request.Mask, size)
		}
		out := upload.Plain(img.Image)
		upload.Blend(out, in.kept, in.edge)
		img.Image = out
		return nil
	})
}
