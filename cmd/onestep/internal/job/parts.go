package job

import (
	"context"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/infotext"
	"github.com/onestep-go/onestep/torch"
)

// options are how the model is opened.
func (o Generate) options(dev torch.Device) sd.Options {
	tiny := o.TinyVAE
	if o.Preview != "" {
		tiny = "" // it is for the previews
	}
	return sd.Options{
		Device: dev, DType: dtypes[o.DType], Variant: o.Variant, Mixed: o.Mixed, EMA: o.EMA, Config: o.Config, Prediction: o.Prediction,
		UNet: o.UNet, TextEncoder: o.TextEncoder, TextEncoder2: o.TextEncoder2, VAE: o.VAE, TinyVAE: tiny, Tile: o.Tile,
	}
}

// part is a part in place of the model's.
type part struct {
	flag, name, key string // key: what the text of images calls it, as "VAE" in A1111
	path            string // "": none
	of              func(m *weights.Model) *weights.Component
}

// parts are those that may be replaced.
func (o Generate) parts() []part {
	return []part{
		{"--unet", "unet", "UNet", o.UNet, func(m *weights.Model) *weights.Component { return m.UNet }},
		{"--text-encoder", "text_encoder", "Text encoder", o.TextEncoder, func(m *weights.Model) *weights.Component { return m.Text }},
		{"--text-encoder-2", "text_encoder_2", "Text encoder 2", o.TextEncoder2, func(m *weights.Model) *weights.Component { return m.Text2 }},
		{"--vae", "vae", "VAE", o.VAE, func(m *weights.Model) *weights.Component { return m.VAE }},
	}
}

// hashParts finds the hashes of the parts that are not the model's own, and remarks on those that are not what an image was made with.
func (o *Generate) hashParts(ctx context.Context, files *weights.Model) error {
	before := o.PartHashes
	o.PartHashes = nil
	if o.Bare {
		return nil
	}
	for _, p := range o.parts() {
		c := p.of(files)
		if p.path == "" || c == nil || len(c.Files) == 0 {
			continue
		}
		hash, err := shortHash(ctx, c.Files...)
		if err != nil {
			return fmt.Errorf("%s: %w", p.flag, err)
		}
		o.PartHashes = append(o.PartHashes, p.name+": "+hash)
		for _, b := range before {
			if name, was, _ := strings.Cut(b, ": "); name == p.name && was != hash {
				o.remarks = append(o.remarks, fmt.Sprintf("the image was made with another %s (hash %s), not with that of %s (%s)", p.name, quote.Text(was), quote.Path(p.path), hash))
			}
		}
	}
	return nil
}

// describeParts adds to an image's text the names and hashes of parts that are not the model's own.
func (o Generate) describeParts(info *infotext.Text) {
	for _, p := range o.parts() {
		if p.path == "" {
			continue
		}
		info.Add(p.key, adapterName(p.path))
		for _, v := range o.PartHashes {
			if name, hash, _ := strings.Cut(v, ": "); name == p.name {
				info.Add(p.key+" hash", hash)
			}
		}
	}
}
