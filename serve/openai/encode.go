package openai

import (
	"bytes"
	"io"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
)

// encode returns an image as a file with the settings to reproduce it. A format that cannot hold them gets the image without them, and a notice.
func (p *params) encode(img *engine.Image) ([]byte, error) {
	var b bytes.Buffer
	err := p.encodeTo(&b, img, img.Texts)
	if err != nil && len(img.Texts) > 0 {
		b.Reset()
		if p.encodeTo(&b, img, nil) == nil {
			p.notice("the image file does not contain its settings: %s", err)
			return b.Bytes(), nil
		}
	}
	return b.Bytes(), err
}

func (p *params) encodeTo(w io.Writer, img *engine.Image, texts []vision.Text) error {
	switch p.format {
	case "jpeg":
		return vision.EncodeJPEGQuality(w, img.Image, texts, p.quality)
	case "webp":
		return vision.EncodeWebP(w, img.Image, texts)
	}
	return vision.EncodePNG(w, img.Image, texts)
}
